// A bundle's INT8 scales are signed, since TensorRT takes no others, so a value behind a ReLU has 128 steps; the
// plugin's kernels take unsigned activations too, which have 256.
#include <openvino/op/constant.hpp>
#include <openvino/op/convert.hpp>
#include <openvino/op/fake_quantize.hpp>
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

}  // namespace gstk::impl
