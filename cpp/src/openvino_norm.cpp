// The plugin's instance norm adds up a channel's voxels one after the other in float32, and its error grows with their
// number. The mean of each 8³ block first, then the mean of the blocks, keeps partial sums short.
#include <map>
#include <openvino/op/add.hpp>
#include <openvino/op/avg_pool.hpp>
#include <openvino/op/constant.hpp>
#include <openvino/op/convert.hpp>
#include <openvino/op/divide.hpp>
#include <openvino/op/gather.hpp>
#include <openvino/op/multiply.hpp>
#include <openvino/op/mvn.hpp>
#include <openvino/op/power.hpp>
#include <openvino/op/reduce_prod.hpp>
#include <openvino/op/reduce_sum.hpp>
#include <openvino/op/reshape.hpp>
#include <openvino/op/shape_of.hpp>
#include <openvino/op/squared_difference.hpp>
#include <openvino/op/subtract.hpp>

#include "openvino_rewrites.hpp"

namespace gstk::impl {
namespace {

namespace op = ov::op;
using Value = ov::Output<ov::Node>;

constexpr auto kBlock = static_cast<std::size_t>(kNormBlock);

Value integers(const std::vector<std::int64_t>& values) {
    return op::v0::Constant::create(ov::element::i64, {values.size()}, values);
}

Value number(float value) {
    return op::v0::Constant::create(ov::element::f32, {}, {value});
}

template <class Op, class... Arguments>
Value make(Arguments&&... arguments) {
    return std::make_shared<Op>(std::forward<Arguments>(arguments)...);
}

Value mean_of_blocks(const Value& x, const Value& weight, const Value& axes) {
    // Blocks that reach past the end count zeros there, so that every block weighs the same whatever the shape.
    const ov::Shape block{kBlock, kBlock, kBlock};
    const Value blocks =
        make<op::v1::AvgPool>(x, ov::Strides(block.begin(), block.end()), ov::Shape{0, 0, 0},
                              ov::Shape{kBlock - 1, kBlock - 1, kBlock - 1}, block, false, op::RoundingType::FLOOR);
    return make<op::v1::Multiply>(make<op::v1::ReduceSum>(blocks, axes, true), weight);
}

// Epsilon and input of an MVN over three spatial axes; the others are the layer norms of tokens, short sums already.
bool is_instance_norm(const std::shared_ptr<ov::Node>& node, float& epsilon) {
    if (const auto norm = ov::as_type_ptr<op::v6::MVN>(node))
        epsilon = norm->get_eps();
    else if (const auto older = ov::as_type_ptr<op::v0::MVN>(node))
        epsilon = static_cast<float>(older->get_eps());
    else
        return false;
    const auto rank = node->get_input_partial_shape(0).rank();
    return rank.is_static() && rank.get_length() == 5;
}

}  // namespace

int split_instance_norms(const std::shared_ptr<ov::Model>& model) {
    // Shared by all norms: each node more takes the plugin time to compile.
    const Value axes = integers({2, 3, 4}), first = op::v0::Constant::create(ov::element::i64, {}, {0});
    const Value along = integers({0}), ranks = integers({1, 1, 1, 1, 1}), inverse_root = number(-0.5f);
    const Value block =
        op::v0::Constant::create(ov::element::f32, {1, 1, 1, 1, 1}, {static_cast<float>(kBlock * kBlock * kBlock)});
    std::map<float, Value> epsilons;
    int rewritten = 0;
    for (const auto& node : model->get_ordered_ops()) {
        float epsilon = 0;
        if (!is_instance_norm(node, epsilon)) continue;
        const Value x = node->input_value(0);
        const Value sides = make<op::v8::Gather>(make<op::v3::ShapeOf>(x, ov::element::i64), axes, first);
        const Value product = make<op::v0::Convert>(make<op::v1::ReduceProd>(sides, along, false), ov::element::f32);
        // Of the tensors' rank: dividing by a scalar makes the plugin change the layout before and after every norm.
        const Value weight = make<op::v1::Divide>(block, make<op::v1::Reshape>(product, ranks, false));
        const Value mean = mean_of_blocks(x, weight, axes);
        const Value variance = mean_of_blocks(make<op::v0::SquaredDifference>(x, mean), weight, axes);
        const auto known = epsilons.try_emplace(epsilon, number(epsilon)).first->second;
        const Value scale = make<op::v1::Power>(make<op::v1::Add>(variance, known), inverse_root);
        const Value normalised = make<op::v1::Multiply>(make<op::v1::Subtract>(x, mean), scale);
        node->output(0).replace(normalised);
        ++rewritten;
    }
    model->validate_nodes_and_infer_types();
    return rewritten;
}

}  // namespace gstk::impl
