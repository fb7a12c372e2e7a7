// Nodes that the rewrites of OpenVINO's graphs have in common.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <openvino/op/constant.hpp>
#include <openvino/op/transpose.hpp>

namespace gstk::impl {

using Order = std::vector<std::int64_t>;

// From channels-first to channels-last and back, and tokens [B,T,C] to [B,C,T].
inline const Order kToLast{0, 2, 3, 4, 1}, kToFirst{0, 4, 1, 2, 3}, kTurnTokens{0, 2, 1};

inline std::shared_ptr<ov::Node> integers(const Order& values) {
    return ov::op::v0::Constant::create(ov::element::i64, {values.size()}, values);
}

inline std::shared_ptr<ov::Node> integer(std::int64_t value) {
    return ov::op::v0::Constant::create(ov::element::i64, {}, {value});
}

inline std::shared_ptr<ov::Node> turned(const ov::Output<ov::Node>& value, const Order& order) {
    return std::make_shared<ov::op::v1::Transpose>(value, integers(order));
}

// The identity [1,N,N]: a product with it turns rows and columns, several times as fast as the plugin's transpose.
inline std::shared_ptr<ov::Node> identity(const ov::element::Type& type, std::size_t size) {
    std::vector<float> values(size * size, 0);
    for (std::size_t i = 0; i < size; ++i) values[i * (size + 1)] = 1;
    return ov::op::v0::Constant::create(type, {1, size, size}, values);
}

inline bool is_constant(const ov::Output<ov::Node>& value, const Order& expected) {
    const auto found = ov::as_type_ptr<ov::op::v0::Constant>(value.get_node_shared_ptr());
    return found && found->cast_vector<std::int64_t>() == expected;
}

// The one node that reads a node; null where there are more.
inline std::shared_ptr<ov::Node> only_reader(const std::shared_ptr<ov::Node>& node) {
    const auto readers = node->output(0).get_target_inputs();
    return readers.size() == 1 ? readers.begin()->get_node()->shared_from_this() : nullptr;
}

inline bool has_rank(const ov::Output<ov::Node>& value, std::int64_t rank) {
    const auto found = value.get_partial_shape().rank();
    return found.is_static() && found.get_length() == rank;
}

}  // namespace gstk::impl
