// The decoder's image tokens without transposes, and its attention to prompts as rows; why, gstk.engines.openvino_attention
// says.
#include <openvino/op/add.hpp>
#include <openvino/op/concat.hpp>
#include <openvino/op/convolution.hpp>
#include <openvino/op/gather.hpp>
#include <openvino/op/matmul.hpp>
#include <openvino/op/reshape.hpp>
#include <openvino/op/shape_of.hpp>
#include <openvino/op/softmax.hpp>
#include <optional>

#include "openvino_nodes.hpp"
#include "openvino_rewrites.hpp"

namespace gstk::impl {
namespace {

using Node = std::shared_ptr<ov::Node>;

// Scores are `tokens [1,T,C] @ keys + bias [1,1,heads·P]`, and their softmax is the first factor of `product`.
struct Attention {
    ov::Output<ov::Node> tokens, keys;
    bool keys_turned;  // whether keys are [1,C,heads·P], not [1,heads·P,C]
    ov::Output<ov::Node> bias;
    std::int64_t heads;
    std::shared_ptr<ov::op::v0::MatMul> product;
};

// The attention whose weights [1,T,heads,P] a node computes.
std::optional<Attention> attention_of(const Node& softmax) {
    if (!ov::is_type<ov::op::v8::Softmax>(softmax) && !ov::is_type<ov::op::v1::Softmax>(softmax)) return {};
    if (!has_rank(softmax->output(0), 4) || softmax->get_output_partial_shape(0)[2].is_dynamic()) return {};
    const auto split = ov::as_type_ptr<ov::op::v1::Reshape>(softmax->get_input_node_shared_ptr(0));
    const auto flat = ov::as_type_ptr<ov::op::v1::Reshape>(only_reader(softmax));
    if (!split || !flat || !has_rank(flat->output(0), 3)) return {};
    const auto total = ov::as_type_ptr<ov::op::v1::Add>(split->get_input_node_shared_ptr(0));
    const auto product = ov::as_type_ptr<ov::op::v0::MatMul>(only_reader(flat));
    if (!total || !product) return {};
    const auto scores = ov::as_type_ptr<ov::op::v0::MatMul>(total->get_input_node_shared_ptr(0));
    const auto bias = total->input_value(1);
    if (!scores || !has_rank(bias, 3) || bias.get_partial_shape()[1] != 1) return {};
    if (scores->get_transpose_a() || product->get_transpose_a() || product->get_input_node_shared_ptr(0) != flat)
        return {};
    if (!has_rank(scores->input_value(0), 3) || scores->get_output_partial_shape(0)[0] != 1) return {};
    return Attention{scores->input_value(0),
                     scores->input_value(1),
                     !scores->get_transpose_b(),
                     bias,
                     softmax->get_output_partial_shape(0)[2].get_length(),
                     product};
}

}  // namespace

int upsample_tokens(const std::shared_ptr<ov::Model>& model) {
    const auto embedding = model->input("embedding");
    int rewritten = 0;
    for (const auto& node : model->get_ordered_ops()) {
        if (!ov::is_type<ov::op::v1::ConvolutionBackpropData>(node)) continue;
        const auto unflattened = ov::as_type_ptr<ov::op::v1::Reshape>(node->get_input_node_shared_ptr(0));
        const auto turn =
            unflattened ? ov::as_type_ptr<ov::op::v1::Transpose>(unflattened->get_input_node_shared_ptr(0)) : nullptr;
        if (!turn || !is_constant(turn->input_value(1), kTurnTokens)) continue;
        const auto tokens = turn->input_value(0);
        const auto& shape = tokens.get_partial_shape();
        if (shape[0] != 1 || shape[2].is_dynamic() || shape[2] != embedding.get_partial_shape()[4]) continue;
        const auto sizes = std::make_shared<ov::op::v3::ShapeOf>(embedding);
        const auto ones = identity(tokens.get_element_type(), static_cast<std::size_t>(shape[2].get_length()));
        const auto rows = std::make_shared<ov::op::v0::MatMul>(ones, tokens, false, true);
        const auto first = std::make_shared<ov::op::v8::Gather>(sizes, integers(kToFirst), integer(0));
        const auto voxels = std::make_shared<ov::op::v1::Reshape>(rows, first, false);
        node->input(0).replace_source_output(voxels->output(0));
        ++rewritten;
    }
    model->validate_nodes_and_infer_types();
    return rewritten;
}

int softmax_over_rows(const std::shared_ptr<ov::Model>& model) {
    int rewritten = 0;
    for (const auto& node : model->get_ordered_ops()) {
        const auto found = attention_of(node);
        if (!found) continue;
        const auto products =
            std::make_shared<ov::op::v0::MatMul>(found->keys, found->tokens, found->keys_turned, true);
        const auto scores = std::make_shared<ov::op::v1::Add>(products, turned(found->bias, kTurnTokens));
        const auto count = std::make_shared<ov::op::v8::Gather>(std::make_shared<ov::op::v3::ShapeOf>(found->tokens),
                                                                integers({1}), integer(0));
        const auto shape_of_rows = [&](const Order& first) {
            return std::make_shared<ov::op::v0::Concat>(ov::OutputVector{integers(first), count}, 0);
        };
        const auto by_head = std::make_shared<ov::op::v1::Reshape>(scores, shape_of_rows({1, found->heads, -1}), false);
        const auto weights = std::make_shared<ov::op::v8::Softmax>(by_head, 2);
        const auto rows = std::make_shared<ov::op::v1::Reshape>(weights, shape_of_rows({1, -1}), false);
        const auto summed = std::make_shared<ov::op::v0::MatMul>(rows, found->product->input_value(1), true,
                                                                 found->product->get_transpose_b());
        found->product->output(0).replace(summed);
        ++rewritten;
    }
    model->validate_nodes_and_infer_types();
    return rewritten;
}

}  // namespace gstk::impl
