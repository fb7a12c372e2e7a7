// The plugin computes with channels last. A graph's input and output are channels-first, so a region's embedding is
// turned round twice, behind the encoder and again before each click. Here both graphs have it as the plugin holds it.
// The decoder also takes it as tokens [1,T,C], which it is without a transpose.
#include <openvino/op/gather.hpp>
#include <openvino/op/matmul.hpp>
#include <openvino/op/reshape.hpp>
#include <openvino/op/shape_of.hpp>

#include "openvino_nodes.hpp"
#include "openvino_rewrites.hpp"

namespace gstk::impl {
namespace {

// Whether a node makes [1,C,T] of [1,C,H,W,D].
bool flattens(const ov::Node& node, const ov::Dimension& channels) {
    return ov::is_type<ov::op::v1::Reshape>(&node) && channels.is_static() &&
           is_constant(node.input_value(1), {1, channels.get_length(), -1});
}

}  // namespace

void give_channels_last(const std::shared_ptr<ov::Model>& encoder, bool by_product) {
    const auto result = encoder->get_results().front();
    const auto features = result->input_value(0);
    auto last = turned(features, kToLast);
    if (by_product) {
        const auto channels = features.get_partial_shape()[1].get_length();
        const auto rows = std::make_shared<ov::op::v1::Reshape>(features, integers({1, channels, -1}), false);
        const auto ones = identity(features.get_element_type(), static_cast<std::size_t>(channels));
        const auto tokens = std::make_shared<ov::op::v0::MatMul>(rows, ones, true, false);
        const auto sizes = std::make_shared<ov::op::v3::ShapeOf>(features);
        const auto order = std::make_shared<ov::op::v8::Gather>(sizes, integers(kToLast), integer(0));
        last = std::make_shared<ov::op::v1::Reshape>(tokens, order, false);
    }
    result->input(0).replace_source_output(last->output(0));
    encoder->validate_nodes_and_infer_types();
}

void take_channels_last(const std::shared_ptr<ov::Model>& decoder) {
    const auto parameter = ov::as_type_ptr<ov::op::v0::Parameter>(decoder->input("embedding").get_node_shared_ptr());
    const auto readers = parameter->output(0).get_target_inputs();
    const ov::PartialShape shape = parameter->get_partial_shape();
    ov::PartialShape last;
    for (const auto axis : kToLast) last.push_back(shape[static_cast<std::ptrdiff_t>(axis)]);
    parameter->set_partial_shape(last);
    const auto back = turned(parameter, kToFirst);
    for (auto reader : readers) {
        const auto node = reader.get_node()->shared_from_this();
        if (ov::is_type<ov::op::v3::ShapeOf>(node)) {  // which would keep the transpose
            const auto sizes = std::make_shared<ov::op::v3::ShapeOf>(parameter, node->get_output_element_type(0));
            node->output(0).replace(std::make_shared<ov::op::v8::Gather>(sizes, integers(kToFirst), integer(0)));
        } else if (flattens(*node, shape[1])) {
            const auto sizes = integers({1, -1, shape[1].get_length()});
            const auto tokens = std::make_shared<ov::op::v1::Reshape>(parameter, sizes, false);
            node->output(0).replace(turned(tokens, kTurnTokens));
        } else {
            reader.replace_source_output(back->output(0));
        }
    }
    decoder->validate_nodes_and_infer_types();
}

}  // namespace gstk::impl
