// The plugin's instance norm adds up a channel's voxels one after the other in float32, and its error grows with their
// number. The mean of each 8³ block first, then the mean of the blocks, keeps partial sums short.
//
// The decoder's variance is the mean of the squares less the mean's square, one pass over memory less; why that is exact
// there, gstk.engines.openvino_norm says.
//
// Deep in the network there are few voxels, and their sides are no multiples of a block's: those norms stay as they are.
// Each node more takes the plugin time to compile.
#include <cmath>
#include <map>
#include <openvino/op/add.hpp>
#include <openvino/op/avg_pool.hpp>
#include <openvino/op/constant.hpp>
#include <openvino/op/convert.hpp>
#include <openvino/op/convolution.hpp>
#include <openvino/op/divide.hpp>
#include <openvino/op/gather.hpp>
#include <openvino/op/maximum.hpp>
#include <openvino/op/multiply.hpp>
#include <openvino/op/mvn.hpp>
#include <openvino/op/power.hpp>
#include <openvino/op/reduce_l2.hpp>
#include <openvino/op/reduce_mean.hpp>
#include <openvino/op/reduce_prod.hpp>
#include <openvino/op/reduce_sum.hpp>
#include <openvino/op/shape_of.hpp>
#include <openvino/op/squared_difference.hpp>
#include <openvino/op/subtract.hpp>

#include "openvino_nodes.hpp"
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

Value block_means(const Value& x, const ov::Shape& block) {
    const ov::Shape none(3, 0);
    return make<op::v1::AvgPool>(x, ov::Strides(block.begin(), block.end()), none, none, block, true,
                                 op::RoundingType::FLOOR);
}

// The number of places along axes.
Value count_of(const Value& x, const Order& axes) {
    const Value lengths = make<op::v8::Gather>(make<op::v3::ShapeOf>(x), integers(axes), integers({0}));
    return make<op::v0::Convert>(make<op::v1::ReduceProd>(lengths, integers({0}), false), ov::element::f32);
}

// The mean of blocks at once, or plane by plane.
Value mean_of(const Value& blocks, bool by_planes) {
    if (!by_planes) return make<op::v1::ReduceMean>(blocks, integers({2, 3, 4}), true);
    // The plugin would merge two means, and have the features channels first if an axis went away and came back.
    const Value sums = make<op::v1::ReduceSum>(blocks, integers({3, 4}), true);
    return make<op::v1::Divide>(make<op::v1::ReduceMean>(sums, integers({2}), true), count_of(blocks, {3, 4}));
}

Value variance_of(const Value& x, const Value& mean, std::size_t side, bool squares) {
    if (!squares) return mean_of(block_means(make<op::v0::SquaredDifference>(x, mean), ov::Shape(3, side)), false);
    const Value rows = make<op::v4::ReduceL2>(x, integers({4}), true);
    const Value sums = mean_of(block_means(make<op::v1::Multiply>(rows, rows), {side, side, 1}), true);
    const Value mean_square = make<op::v1::Divide>(sums, count_of(x, {4}));
    return make<op::v1::Maximum>(make<op::v1::Subtract>(mean_square, make<op::v1::Multiply>(mean, mean)), number(0));
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

int split_instance_norms(const std::shared_ptr<ov::Model>& model, std::int64_t multiple, bool squares) {
    const Value inverse_root = number(-0.5f);
    const auto levels = levels_of(*model);
    std::map<float, Value> epsilons;
    int rewritten = 0;
    for (const auto& node : model->get_ordered_ops()) {
        float epsilon = 0;
        if (!is_instance_norm(node, epsilon)) continue;
        const std::int64_t sides = std::min(kNormBlock, multiple >> levels.at(node.get()));
        if (sides < kLeastBlock) continue;
        const auto side = static_cast<std::size_t>(sides);
        const Value x = node->input_value(0);
        const Value mean = mean_of(block_means(x, ov::Shape(3, side)), squares);
        const Value variance = variance_of(x, mean, side, squares);
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
