// The plugin keeps full-resolution features channels last, and for a MatMul it first turns them round: a third of a
// click at 48 channels and 128³. A 1×1×1 convolution with the same kernel reads them as they lie.
#include <openvino/op/convolution.hpp>
#include <openvino/op/matmul.hpp>
#include <openvino/op/reshape.hpp>
#include <openvino/op/transpose.hpp>
#include <optional>

#include "openvino_nodes.hpp"
#include "openvino_rewrites.hpp"

namespace gstk::impl {
namespace {

// The maps [1,C,H,W,D] that a product flattens, and the node that unfolds what comes out.
struct Folding {
    ov::Output<ov::Node> maps;
    std::shared_ptr<ov::Node> unflattened;
};

std::optional<Folding> folding_of(const std::shared_ptr<ov::op::v0::MatMul>& product) {
    if (!product || product->get_transpose_b()) return std::nullopt;
    const auto flatten = product->input_value(1).get_node_shared_ptr();
    const auto readers = product->output(0).get_target_inputs();
    if (!ov::is_type<ov::op::v1::Reshape>(flatten) || readers.size() != 1) return std::nullopt;
    const auto maps = flatten->input_value(0);
    const auto unflattened = readers.begin()->get_node()->shared_from_this();
    if (!has_rank(maps, 5) || !has_rank(product->output(0), 3) || !has_rank(unflattened->output(0), 5))
        return std::nullopt;
    const auto objects = maps.get_partial_shape()[0], channels = maps.get_partial_shape()[1];
    const auto taps = product->get_output_partial_shape(0)[1];
    if (objects.is_dynamic() || channels.is_dynamic() || taps.is_dynamic() || objects.get_length() != 1 ||
        unflattened->get_output_partial_shape(0)[1] != taps)
        return std::nullopt;
    return Folding{maps, unflattened};
}

}  // namespace

int convolve_last_product(const std::shared_ptr<ov::Model>& model) {
    int rewritten = 0;
    for (const auto& node : model->get_ordered_ops()) {
        const auto product = ov::as_type_ptr<ov::op::v0::MatMul>(node);
        const auto found = folding_of(product);
        if (!found) continue;
        ov::Output<ov::Node> kernel = product->input_value(0);
        if (product->get_transpose_a()) kernel = std::make_shared<ov::op::v1::Transpose>(kernel, integers({0, 2, 1}));
        const auto taps = product->get_output_partial_shape(0)[1].get_length();
        const auto channels = found->maps.get_partial_shape()[1].get_length();
        kernel = std::make_shared<ov::op::v1::Reshape>(kernel, integers({taps, channels, 1, 1, 1}), false);
        const auto convolution = std::make_shared<ov::op::v1::Convolution>(
            found->maps, kernel, ov::Strides{1, 1, 1}, ov::CoordinateDiff{0, 0, 0}, ov::CoordinateDiff{0, 0, 0},
            ov::Strides{1, 1, 1});
        found->unflattened->output(0).replace(convolution->output(0));
        ++rewritten;
    }
    model->validate_nodes_and_infer_types();
    return rewritten;
}

}  // namespace gstk::impl
