// A bundle's INT8 scales are signed, since TensorRT takes no others, so a value behind a ReLU has 128 steps; the
// plugin's kernels take unsigned activations too, which have 256. A bundle rounds both operands of a residual sum; the
// plugin has a convolution add its residual in place where both have one type.
#include <openvino/op/add.hpp>
#include <openvino/op/constant.hpp>
#include <openvino/op/convert.hpp>
#include <openvino/op/fake_quantize.hpp>
#include <openvino/op/minimum.hpp>
#include <openvino/op/multiply.hpp>
#include <openvino/op/relu.hpp>
#include <openvino/op/subtract.hpp>

#include "openvino_rewrites.hpp"

namespace gstk::impl {
namespace {

constexpr float kLargest = 127;
constexpr std::size_t kSteps = 256;

struct Dequantised {
    std::shared_ptr<ov::Node> product;
    float scale;
};

// The product with one constant scale that ends a DequantizeLinear behind a node; no product where it is not that.
Dequantised dequantised(std::shared_ptr<ov::Node> node) {
    for (int step = 0; step < 4; ++step) {  // Convert, Convert, Subtract, Multiply
        const auto readers = node->output(0).get_target_inputs();
        if (readers.size() != 1) break;
        node = readers.begin()->get_node()->shared_from_this();
        if (ov::is_type<ov::op::v1::Multiply>(node)) {
            const auto scale = ov::as_type_ptr<ov::op::v0::Constant>(node->input_value(1).get_node_shared_ptr());
            if (!scale || ov::shape_size(scale->get_shape()) != 1) break;
            return {node, scale->cast_vector<float>().front()};
        }
        if (!ov::is_type<ov::op::v0::Convert>(node) && !ov::is_type<ov::op::v1::Subtract>(node)) break;
    }
    return {nullptr, 0};
}

// The FakeQuantize whose result, dequantised, a value is; none where it is something else.
std::shared_ptr<ov::op::v0::FakeQuantize> rounding(const ov::Output<ov::Node>& value) {
    auto node = value.get_node_shared_ptr();
    for (int step = 0; step < 5; ++step) {  // Multiply, Subtract, Convert, Convert, FakeQuantize
        if (const auto found = ov::as_type_ptr<ov::op::v0::FakeQuantize>(node)) return found;
        if (!ov::is_type<ov::op::v0::Convert>(node) && !ov::is_type<ov::op::v1::Subtract>(node) &&
            !ov::is_type<ov::op::v1::Multiply>(node))
            break;
        node = node->input_value(0).get_node_shared_ptr();
    }
    return nullptr;
}

std::size_t count_readers(const ov::Output<ov::Node>& value) { return value.get_target_inputs().size(); }

bool is_read_in_floating_point(const ov::Output<ov::Node>& value) {
    for (const auto& reader : value.get_target_inputs())
        if (dynamic_cast<const ov::op::v0::FakeQuantize*>(reader.get_node()) == nullptr) return true;
    return false;
}

}  // namespace

bool is_quantised(const ov::Model& model) {
    for (const auto& node : model.get_ops())
        if (ov::is_type<ov::op::v0::FakeQuantize>(node)) return true;
    return false;
}

int widen_unsigned(const std::shared_ptr<ov::Model>& model) {
    int rewritten = 0;
    for (const auto& node : model->get_ordered_ops()) {
        if (!ov::is_type<ov::op::v0::FakeQuantize>(node) ||
            !ov::is_type<ov::op::v0::Relu>(node->input_value(0).get_node_shared_ptr()))
            continue;
        const auto found = dequantised(node);
        if (!found.product) continue;
        const auto low = ov::op::v0::Constant::create(ov::element::f32, {}, {0.0f});
        const auto high = ov::op::v0::Constant::create(ov::element::f32, {}, {kLargest * found.scale});
        const auto wide =
            std::make_shared<ov::op::v0::FakeQuantize>(node->input_value(0), low, high, low, high, kSteps);
        found.product->output(0).replace(wide->output(0));
        ++rewritten;
    }
    model->validate_nodes_and_infer_types();
    return rewritten;
}

FusedSums fuse_residual_sums(const std::shared_ptr<ov::Model>& model) {
    FusedSums fused;
    for (const auto& node : model->get_ordered_ops()) {
        if (!ov::is_type<ov::op::v1::Add>(node)) continue;
        const auto first = rounding(node->input_value(0)), second = rounding(node->input_value(1));
        if (!first || !second) continue;
        const bool shared = count_readers(node->input_value(0)) > 1 || count_readers(node->input_value(1)) > 1;
        if (!shared && is_read_in_floating_point(node->output(0))) {
            node->input(0).replace_source_output(first->input_value(0));
            node->input(1).replace_source_output(second->input_value(0));
            fused.unrounded += 2;
            continue;
        }
        for (const auto& quantiser : {first, second}) {
            const auto value = quantiser->input_value(0);
            const auto largest = ov::as_type_ptr<ov::op::v0::Constant>(quantiser->input_value(2).get_node_shared_ptr());
            if (count_readers(value) < 2 || !largest || ov::shape_size(largest->get_shape()) != 1) continue;
            const auto limit =
                ov::op::v0::Constant::create(ov::element::f32, {}, {largest->cast_vector<float>().front()});
            const auto below = std::make_shared<ov::op::v1::Minimum>(value, limit);
            quantiser->input(0).replace_source_output(below->output(0));
            ++fused.passed;
        }
    }
    model->validate_nodes_and_infer_types();
    return fused;
}

}  // namespace gstk::impl
