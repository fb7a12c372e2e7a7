// The plugin computes with channels last. A graph's input and output are channels-first, so a region's embedding is
// turned round twice, behind the encoder and again before each click. Here both graphs have it as the plugin holds it.
#include <openvino/op/constant.hpp>
#include <openvino/op/transpose.hpp>

#include "openvino_rewrites.hpp"

namespace gstk::impl {
namespace {

using Order = std::vector<std::int64_t>;

const Order kToLast{0, 2, 3, 4, 1}, kToFirst{0, 4, 1, 2, 3};

std::shared_ptr<ov::op::v1::Transpose> turned(const ov::Output<ov::Node>& value, const Order& order) {
    return std::make_shared<ov::op::v1::Transpose>(
        value, ov::op::v0::Constant::create(ov::element::i64, {order.size()}, order));
}

}  // namespace

void give_channels_last(const std::shared_ptr<ov::Model>& encoder) {
    const auto result = encoder->get_results().front();
    result->input(0).replace_source_output(turned(result->input_value(0), kToLast)->output(0));
    encoder->validate_nodes_and_infer_types();
}

void take_channels_last(const std::shared_ptr<ov::Model>& decoder) {
    const auto parameter = ov::as_type_ptr<ov::op::v0::Parameter>(decoder->input("embedding").get_node_shared_ptr());
    const auto readers = parameter->output(0).get_target_inputs();
    const ov::PartialShape shape = parameter->get_partial_shape();
    ov::PartialShape last;
    for (const auto axis : kToLast) last.push_back(shape[static_cast<std::ptrdiff_t>(axis)]);
    parameter->set_partial_shape(last);
    const auto back = turned(parameter->output(0), kToFirst);
    for (auto reader : readers) reader.replace_source_output(back->output(0));
    decoder->validate_nodes_and_infer_types();
}

}  // namespace gstk::impl
