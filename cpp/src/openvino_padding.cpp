// Decoders of an older gstk, rewritten so that they ignore points; why and how, gstk.engines.openvino_padding says.
#include <algorithm>
#include <map>
#include <numeric>
#include <openvino/op/add.hpp>
#include <openvino/op/concat.hpp>
#include <openvino/op/constant.hpp>
#include <openvino/op/convert.hpp>
#include <openvino/op/equal.hpp>
#include <openvino/op/multiply.hpp>
#include <openvino/op/reshape.hpp>
#include <openvino/op/softmax.hpp>
#include <openvino/op/tile.hpp>
#include <optional>

#include "openvino_rewrites.hpp"
#include "point_padding.hpp"

namespace gstk::impl {
namespace {

constexpr const char* kName = "labels_with_ignored";
constexpr float kLowered = -6e4f;  // what is added to a score; float16 holds it, and exp of it is 0
// Points and sides of an embedding for which shapes are worked out; the latter gives more image tokens than prompts.
constexpr std::size_t kPoints = 7, kSide = 8;

// Where a mask is added: to which input of a node, and for how many heads side by side.
struct Place {
    std::size_t operand, heads;
};

// Tokens before and after those of the points.
struct Around {
    std::size_t before, after;
};

std::optional<Around> tokens_around(const ov::Node& node) {
    if (!ov::is_type<ov::op::v0::Concat>(&node)) return {};
    std::vector<std::size_t> counts;
    for (const auto& value : node.input_values()) {
        const auto& shape = value.get_shape();
        counts.push_back(shape.size() == 3 ? shape[1] : 0);
    }
    const auto total = std::accumulate(counts.begin(), counts.end(), std::size_t{0});
    if (std::count(counts.begin(), counts.end(), kPoints) != 1 || node.get_output_shape(0).size() != 3 ||
        node.get_output_shape(0)[1] != total)
        return {};
    const auto place = std::find(counts.begin(), counts.end(), kPoints);
    return Around{std::accumulate(counts.begin(), place, std::size_t{0}),
                  std::accumulate(place + 1, counts.end(), std::size_t{0})};
}

// Whether a node is a softmax along its last axis, of so many values.
bool is_softmax_over(const ov::Node& node, std::size_t count) {
    const auto* recent = ov::as_type<const ov::op::v8::Softmax>(&node);
    const auto* old = ov::as_type<const ov::op::v1::Softmax>(&node);
    if (!recent && !old) return false;
    const auto& shape = node.get_output_shape(0);
    const auto last = static_cast<std::int64_t>(shape.size()) - 1;
    const auto axis = recent ? recent->get_axis() : static_cast<std::int64_t>(old->get_axis());
    return (axis == last || axis == -1) && shape.back() == count;
}

// Where to add a mask to a softmax's scores: to a row that is added to all of them anyway, where there is one.
std::pair<std::string, Place> cheapest_place(const ov::Node& softmax) {
    const auto& shape = softmax.get_output_shape(0);
    const auto reshape = softmax.input_value(0).get_node_shared_ptr();
    const std::size_t heads = shape[shape.size() - 2];
    if (ov::is_type<ov::op::v1::Reshape>(reshape)) {
        const auto total = reshape->input_value(0).get_node_shared_ptr();
        if (ov::is_type<ov::op::v1::Add>(total))
            for (std::size_t i = 0; i < 2; ++i)
                if (total->input_value(i).get_shape() == ov::Shape{1, 1, heads * shape.back()})
                    return {total->get_friendly_name(), {i, heads}};
    }
    return {softmax.get_friendly_name(), {0, 1}};
}

}  // namespace

bool ignores_padding(const ov::CompiledModel& compiled) {
    const auto inputs = compiled.inputs();
    return std::any_of(inputs.begin(), inputs.end(), [](const auto& port) { return port.get_names().count(kName) > 0; });
}

int ignore_padding(const std::shared_ptr<ov::Model>& model) {
    // Found by shapes, in a copy for a number of points that no other axis has.
    const auto copy = model->clone();
    ov::PartialShape embedding = copy->input("embedding").get_partial_shape();
    for (auto& axis : embedding)
        if (axis.is_dynamic()) axis = kSide;
    constexpr auto kCount = static_cast<std::int64_t>(kPoints);
    copy->reshape(std::map<std::string, ov::PartialShape>{
        {"embedding", embedding}, {"point_coords", {1, kCount, 3}}, {"point_labels", {1, kCount}}});
    std::optional<Around> around;
    std::map<std::string, Place> places;
    for (const auto& node : copy->get_ordered_ops()) {
        if (!around)
            around = tokens_around(*node);
        else if (is_softmax_over(*node, around->before + kPoints + around->after))
            places.insert(cheapest_place(*node));
    }
    if (places.empty()) return 0;

    using ov::op::v0::Constant;
    const auto labels = model->input("point_labels");
    const auto zeros = [](std::size_t count) {
        return Constant::create(ov::element::f32, {1, count}, std::vector<float>(count, 0.0f));
    };
    const auto ignored = std::make_shared<ov::op::v0::Convert>(
        std::make_shared<ov::op::v1::Equal>(labels, Constant::create(ov::element::i64, {}, {kIgnored})),
        ov::element::f32);
    const auto lowered =
        std::make_shared<ov::op::v1::Multiply>(ignored, Constant::create(ov::element::f32, {}, {kLowered}));
    const auto row = std::make_shared<ov::op::v0::Concat>(
        ov::OutputVector{zeros(around->before), lowered, zeros(around->after)}, 1);
    for (const auto& node : model->get_ordered_ops()) {
        const auto found = places.find(node->get_friendly_name());
        if (found == places.end()) continue;
        // It broadcasts from the last axis: prompt tokens, a row of them for each head where those are flattened.
        const auto repeats = Constant::create(ov::element::i64, {2}, {1, static_cast<int>(found->second.heads)});
        const auto mask = std::make_shared<ov::op::v0::Convert>(std::make_shared<ov::op::v0::Tile>(row, repeats),
                                                                node->get_element_type());
        auto port = node->input(found->second.operand);
        port.replace_source_output(std::make_shared<ov::op::v1::Add>(port.get_source_output(), mask)->output(0));
    }
    labels.get_tensor().add_names({kName});
    model->validate_nodes_and_infer_types();
    return static_cast<int>(places.size());
}

}  // namespace gstk::impl
