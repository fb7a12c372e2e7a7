// A bundle's INT8 scales are signed, since TensorRT takes no others, so a value behind a ReLU has 128 steps; the
// plugin's kernels take unsigned activations too, which have 256. A bundle rounds both operands of a residual sum; the
// plugin has a convolution add its residual in place where both have one type.
//
// Processors without VNNI add two products at a time in 16 bits, which saturate; weights of at most 64 steps to either
// side of zero do not (gstk.engines.openvino_saturation).
#include <algorithm>
#include <cmath>
#include <openvino/op/add.hpp>
#include <openvino/op/constant.hpp>
#include <openvino/op/convert.hpp>
#include <openvino/op/convolution.hpp>
#include <openvino/op/fake_quantize.hpp>
#include <openvino/op/minimum.hpp>
#include <openvino/op/multiply.hpp>
#include <openvino/op/parameter.hpp>
#include <openvino/op/relu.hpp>
#include <openvino/op/reshape.hpp>
#include <openvino/op/subtract.hpp>
#include <openvino/runtime/properties.hpp>

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

// A constant behind Convert and Reshape nodes, in the shape that comes out of them; no values for anything else.
struct Values {
    std::vector<float> values;
    ov::Shape shape;
};

Values constant(const ov::Output<ov::Node>& value) {
    const auto node = value.get_node_shared_ptr();
    if (const auto found = ov::as_type_ptr<ov::op::v0::Constant>(node))
        return {found->cast_vector<float>(), found->get_shape()};
    if (!ov::is_type<ov::op::v0::Convert>(node) && !ov::is_type<ov::op::v1::Reshape>(node)) return {};
    Values source = constant(node->input_value(0));
    if (!source.values.empty()) source.shape = value.get_shape();
    return source;
}

// Where an element of a tensor lies in one of fewer or shorter axes that is broadcast to its shape.
std::size_t broadcast_index(std::size_t index, const ov::Shape& shape, const ov::Shape& small) {
    std::size_t found = 0, stride = 1;
    for (std::size_t back = 1; back <= shape.size(); ++back) {
        const std::size_t side = shape[shape.size() - back], at = index % side;
        index /= side;
        if (back > small.size()) continue;
        const std::size_t held = small[small.size() - back];
        if (held > 1) found += at * stride;
        stride *= held;
    }
    return found;
}

// Weights less their zero points, and their scale, where a node ends a DequantizeLinear of constant 8-bit weights.
bool is_dequantised_weights(const std::shared_ptr<ov::Node>& node, Values& weights, Values& scale) {
    constexpr std::size_t kLeastAxes = 3;  // of a convolution's weights, one spatial axis at least
    if (!ov::is_type<ov::op::v1::Multiply>(node)) return false;
    scale = constant(node->input_value(1));
    auto source = node->input_value(0).get_node_shared_ptr();
    Values zero{{0}, {}};
    if (ov::is_type<ov::op::v1::Subtract>(source)) {
        zero = constant(source->input_value(1));
        source = source->input_value(0).get_node_shared_ptr();
    }
    if (!ov::is_type<ov::op::v0::Convert>(source) || scale.values.empty() || zero.values.empty()) return false;
    const auto found = ov::as_type_ptr<ov::op::v0::Constant>(source->input_value(0).get_node_shared_ptr());
    if (!found || found->get_element_type().bitwidth() != 8 || found->get_shape().size() < kLeastAxes) return false;
    weights = {found->cast_vector<float>(), found->get_shape()};
    for (std::size_t i = 0; i < weights.values.size(); ++i)
        weights.values[i] -= zero.values[broadcast_index(i, weights.shape, zero.shape)];
    return true;
}

}  // namespace

bool products_saturate(ov::Core& core) {
    constexpr std::size_t kChannels = 32, kSide = 4;
    constexpr float kActivation = 255, kWeight = 127, kExact = kChannels * 27 * kActivation * kWeight;
    const auto scalar = [](float v) { return ov::op::v0::Constant::create(ov::element::f32, {}, {v}); };
    const auto image = std::make_shared<ov::op::v0::Parameter>(ov::element::f32,
                                                               ov::Shape{1, kChannels, kSide, kSide, kSide});
    const auto low = scalar(0), high = scalar(kActivation);
    const auto rounded = std::make_shared<ov::op::v0::FakeQuantize>(std::make_shared<ov::op::v0::Relu>(image), low, high,
                                                                    low, high, kSteps);
    const auto kernel =
        ov::op::v0::Constant::create(ov::element::i8, {kChannels, kChannels, 3, 3, 3}, {static_cast<int>(kWeight)});
    const auto scale = ov::op::v0::Constant::create(ov::element::f32, {kChannels, 1, 1, 1, 1}, {1.0f});
    const auto weights = std::make_shared<ov::op::v1::Multiply>(
        std::make_shared<ov::op::v0::Convert>(kernel, ov::element::f32), scale);
    const auto sums = std::make_shared<ov::op::v1::Convolution>(
        rounded, weights, ov::Strides{1, 1, 1}, ov::CoordinateDiff{0, 0, 0}, ov::CoordinateDiff{0, 0, 0},
        ov::Strides{1, 1, 1});
    const auto model = std::make_shared<ov::Model>(ov::OutputVector{sums}, ov::ParameterVector{image}, "products");
    auto compiled = core.compile_model(model, "CPU", ov::hint::inference_precision(ov::element::f32),
                                       ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY));
    auto request = compiled.create_infer_request();
    ov::Tensor given(ov::element::f32, image->get_shape());
    std::fill_n(given.data<float>(), given.get_size(), kActivation);
    request.set_input_tensor(given);
    request.infer();
    const auto found = request.get_output_tensor();
    const float* values = found.data<const float>();
    return std::any_of(values, values + found.get_size(), [](float v) { return std::abs(v / kExact - 1) > 0.01f; });
}

int narrow_weights(const std::shared_ptr<ov::Model>& model) {
    constexpr float kMaxSteps = 64;
    int rewritten = 0;
    for (const auto& node : model->get_ordered_ops()) {
        Values weights, scale;
        if (!is_dequantised_weights(node, weights, scale)) continue;
        std::vector<float> factors(scale.values.size(), 1);
        for (std::size_t i = 0; i < weights.values.size(); ++i) {
            float& factor = factors[broadcast_index(i, weights.shape, scale.shape)];
            factor = std::max(factor, std::abs(weights.values[i]) / kMaxSteps);
        }
        if (std::all_of(factors.begin(), factors.end(), [](float factor) { return factor == 1; })) continue;
        std::vector<std::int8_t> steps(weights.values.size());
        for (std::size_t i = 0; i < steps.size(); ++i) {
            const float factor = factors[broadcast_index(i, weights.shape, scale.shape)];
            steps[i] = static_cast<std::int8_t>(std::nearbyint(weights.values[i] / factor));
        }
        std::transform(scale.values.begin(), scale.values.end(), factors.begin(), factors.begin(), std::multiplies<>());
        const auto narrow = std::make_shared<ov::op::v1::Multiply>(
            std::make_shared<ov::op::v0::Convert>(ov::op::v0::Constant::create(ov::element::i8, weights.shape, steps),
                                                  ov::element::f32),
            ov::op::v0::Constant::create(ov::element::f32, scale.shape, factors));
        node->output(0).replace(narrow->output(0));
        ++rewritten;
    }
    model->validate_nodes_and_infer_types();
    return rewritten;
}

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
