// The plugin's instance norm adds up a channel's voxels one after the other in float32, and its error grows with their
// number. The mean of each 8³ block first, then the mean of the blocks, keeps partial sums short.
//
// Deep in the network there are few voxels, and their sides are no multiples of a block's: those norms stay as they are.
// Each node more takes the plugin time to compile.
#include <cmath>
#include <map>
#include <openvino/op/add.hpp>
#include <openvino/op/avg_pool.hpp>
#include <openvino/op/constant.hpp>
#include <openvino/op/convolution.hpp>
#include <openvino/op/multiply.hpp>
#include <openvino/op/mvn.hpp>
#include <openvino/op/power.hpp>
#include <openvino/op/reduce_mean.hpp>
#include <openvino/op/squared_difference.hpp>
#include <openvino/op/subtract.hpp>

#include "openvino_rewrites.hpp"

namespace gstk::impl {
namespace {

namespace op = ov::op;
using Value = ov::Output<ov::Node>;

constexpr std::int64_t kLeastBlock = 4;  // side of a block that is worth it

Value number(float value) {
    return op::v0::Constant::create(ov::element::f32, {}, {value});
}

template <class Op, class... Arguments>
Value make(Arguments&&... arguments) {
    return std::make_shared<Op>(std::forward<Arguments>(arguments)...);
}

Value mean_of_blocks(const Value& x, const Value& axes, std::int64_t side) {
    const ov::Shape block(3, static_cast<std::size_t>(side)), none(3, 0);
    const Value blocks = make<op::v1::AvgPool>(x, ov::Strides(block.begin(), block.end()), none, none, block, true,
                                               op::RoundingType::FLOOR);
    return make<op::v1::ReduceMean>(blocks, axes, true);
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

// How often the sides of each node's output were halved, beside the image; what depends on no input is left out.
std::map<const ov::Node*, int> levels_of(const ov::Model& model) {
    std::map<const ov::Node*, int> found;
    const auto halvings = [](const ov::Strides& strides) { return static_cast<int>(std::log2(strides.front())); };
    for (const auto& node : model.get_ordered_ops()) {
        if (ov::is_type<op::v0::Parameter>(node)) {
            const auto& names = node->output(0).get_names();
            if (names.count("image")) found[node.get()] = 0;
            if (names.count("embedding")) found[node.get()] = 1;
            continue;
        }
        int level = -1;
        for (const auto& input : node->input_values()) {
            const auto given = found.find(input.get_node());
            if (given != found.end()) level = std::max(level, given->second);
        }
        if (level < 0) continue;
        if (const auto down = ov::as_type_ptr<op::v1::Convolution>(node)) level += halvings(down->get_strides());
        if (const auto up = ov::as_type_ptr<op::v1::ConvolutionBackpropData>(node)) level -= halvings(up->get_strides());
        found[node.get()] = level;
    }
    return found;
}

}  // namespace

int split_instance_norms(const std::shared_ptr<ov::Model>& model, std::int64_t multiple) {
    const Value axes = op::v0::Constant::create(ov::element::i64, {3}, {2, 3, 4}), inverse_root = number(-0.5f);
    const auto levels = levels_of(*model);
    std::map<float, Value> epsilons;
    int rewritten = 0;
    for (const auto& node : model->get_ordered_ops()) {
        float epsilon = 0;
        if (!is_instance_norm(node, epsilon)) continue;
        const std::int64_t side = std::min(kNormBlock, multiple >> levels.at(node.get()));
        if (side < kLeastBlock) continue;
        const Value x = node->input_value(0);
        const Value mean = mean_of_blocks(x, axes, side);
        const Value variance = mean_of_blocks(make<op::v0::SquaredDifference>(x, mean), axes, side);
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
