// The plugin keeps full-resolution features channels last, and for a MatMul it first turns them round: a third of a
// click at 48 channels and 128³. A convolution with the same kernel reads them as they lie. It has the taps of the last
// axis as its own, where the graph's first shift follows. More in gstk.engines.openvino_fold.
#include <openvino/op/add.hpp>
#include <openvino/op/convert.hpp>
#include <openvino/op/convolution.hpp>
#include <openvino/op/matmul.hpp>
#include <openvino/op/reshape.hpp>
#include <openvino/op/shape_of.hpp>
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

constexpr std::int64_t kTaps = 3;  // maps that a shift adds up, each from another neighbour along an axis

// The convolution that adds up each three of so many maps, the first shifted back by one and the last forth; null where
// the maps are read by anything else.
std::shared_ptr<ov::op::v1::Convolution> shift_of(const std::shared_ptr<ov::Node>& unflattened, std::int64_t taps) {
    const auto node = ov::as_type_ptr<ov::op::v1::Convolution>(only_reader(unflattened));
    if (!node || taps % kTaps != 0) return nullptr;
    auto given = node->get_input_node_shared_ptr(1);
    if (ov::is_type<ov::op::v0::Convert>(given)) given = given->get_input_node_shared_ptr(0);
    const auto constant = ov::as_type_ptr<ov::op::v0::Constant>(given);
    if (!constant) return nullptr;
    const ov::Shape& shape = constant->get_shape();
    const auto count = static_cast<std::size_t>(taps / kTaps), width = static_cast<std::size_t>(kTaps);
    if (shape.size() != 5 || shape[0] != count || shape[1] != count * width || shape[2] * shape[3] * shape[4] != width ||
        node->get_strides() != ov::Strides{1, 1, 1} || node->get_pads_begin() != node->get_pads_end())
        return nullptr;
    for (std::size_t axis = 0; axis < 3; ++axis)
        if (node->get_pads_begin()[axis] != static_cast<std::ptrdiff_t>(shape[2 + axis] / 2)) return nullptr;
    const auto kernel = constant->cast_vector<float>();
    for (std::size_t i = 0; i < kernel.size(); ++i) {
        const std::size_t to = i / (count * width * width), from = i / width % (count * width);
        if (kernel[i] != (from == width * to + i % width ? 1.0f : 0.0f)) return nullptr;
    }
    return node;
}

// Whether a value of five axes is one number.
bool is_one(const ov::Output<ov::Node>& value) {
    if (!has_rank(value, 5)) return false;
    for (const auto& axis : value.get_partial_shape())
        if (axis.get_max_length() != 1) return false;
    return true;
}

}  // namespace

int add_to_row(const std::shared_ptr<ov::Model>& model) {
    int rewritten = 0;
    for (const auto& node : model->get_ordered_ops()) {
        const auto total = ov::as_type_ptr<ov::op::v1::Add>(node);
        if (!total || !ov::is_type<ov::op::v1::Convolution>(total->get_input_node_shared_ptr(0))) continue;
        const auto maps = total->input_value(0), number = total->input_value(1);
        if (maps.get_partial_shape()[1] != 1 || !is_one(number)) continue;
        const auto row = std::make_shared<ov::op::v1::Add>(
            std::make_shared<ov::op::v1::Reshape>(maps, integers({1, -1}), false),
            std::make_shared<ov::op::v1::Reshape>(number, integers({1, 1}), false));
        const auto sizes = std::make_shared<ov::op::v3::ShapeOf>(maps);
        total->output(0).replace(std::make_shared<ov::op::v1::Reshape>(row, sizes, false)->output(0));
        ++rewritten;
    }
    model->validate_nodes_and_infer_types();
    return rewritten;
}

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
        Order sizes{taps, channels, 1, 1, 1};
        ov::CoordinateDiff pads{0, 0, 0};
        std::shared_ptr<ov::Node> replaced = found->unflattened;
        if (const auto shift = shift_of(found->unflattened, taps)) {
            kernel = std::make_shared<ov::op::v1::Reshape>(kernel, integers({taps / kTaps, kTaps, channels}), false);
            kernel = turned(kernel, {0, 2, 1});
            sizes = {taps / kTaps, channels};
            for (std::size_t axis = 2; axis < 5; ++axis)
                sizes.push_back(static_cast<std::int64_t>(shift->get_input_shape(1)[axis]));
            pads = shift->get_pads_begin();
            replaced = shift;
        }
        kernel = std::make_shared<ov::op::v1::Reshape>(kernel, integers(sizes), false);
        const ov::Strides steps{1, 1, 1};
        const auto convolution =
            std::make_shared<ov::op::v1::Convolution>(found->maps, kernel, steps, pads, pads, steps);
        replaced->output(0).replace(convolution->output(0));
        ++rewritten;
    }
    model->validate_nodes_and_infer_types();
    return rewritten;
}

}  // namespace gstk::impl
