#include "label_fusion.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace gstk::impl {
namespace {

// Beyond it, logits say no more: those of different objects are not of one scale.
constexpr float kMostSure = 6;
// Logits by which a mask is surer than another that is e times as large.
constexpr double kSmallness = 4;

using Labels = Grid<std::uint16_t>;

Region shared(const Region& first, const Region& second) {
    Region both;
    for (int a = 0; a < 3; ++a) {
        both.start[a] = std::max(first.start[a], second.start[a]);
        both.stop[a] = std::max(both.start[a], std::min(first.stop[a], second.stop[a]));
    }
    return both;
}

bool holds(const Region& region, const Voxel& v) {
    for (int a = 0; a < 3; ++a)
        if (v[a] < region.start[a] || v[a] >= region.stop[a]) return false;
    return true;
}

template <class Visit>
void each_voxel(const Region& region, Visit&& visit) {
    for (std::int64_t z = region.start[0]; z < region.stop[0]; ++z)
        for (std::int64_t y = region.start[1]; y < region.stop[1]; ++y)
            for (std::int64_t x = region.start[2]; x < region.stop[2]; ++x) visit(Voxel{z, y, x});
}

Voxel within(const Voxel& v, const Region& region) {
    return {v[0] - region.start[0], v[1] - region.start[1], v[2] - region.start[2]};
}

float at(const Logits& logits, const Voxel& v) {
    return logits.values.values[logits.values.index(within(v, logits.region))];
}

// Gives the overlap around a click on one object, which another has the label of, to the clicked object.
void give_overlap(Labels& labels, const Triple& spacing_mm, std::uint16_t owner, const ObjectLogits& other, std::uint16_t object_id,
              const ObjectLogits& clicked, const Voxel& click) {
    const Region both = shared(other.mask->region, clicked.mask->region);
    if (!holds(both, click)) return;
    Mask contested(both.shape());
    each_voxel(both, [&](const Voxel& v) {
        contested.values[contested.index(within(v, both))] =
            labels.values[labels.index(v)] == owner && at(*clicked.mask, v) > 0;
    });
    const Voxel seed = within(click, both);
    if (!contested.values[contested.index(seed)]) return;
    const auto part = clicked_components(
        contested, {{static_cast<float>(seed[0]), static_cast<float>(seed[1]), static_cast<float>(seed[2])}});
    const SquaredDistance near(click, both, spacing_mm);
    std::vector<SquaredDistance> far;
    for (const auto& place : other.clicks) far.emplace_back(place, both, spacing_mm);
    if (other.box_centre) far.emplace_back(*other.box_centre, both, spacing_mm);
    each_voxel(both, [&](const Voxel& v) {
        const auto [z, y, x] = within(v, both);
        if (!part.values[part.index(z, y, x)]) return;
        float nearest = std::numeric_limits<float>::infinity();
        for (const auto& place : far) nearest = std::min(nearest, place.at(z, y, x));
        if (near.at(z, y, x) < nearest) labels.values[labels.index(v)] = object_id;
    });
}

}  // namespace

Labels label_map(const Geometry& geometry, const std::map<std::int64_t, ObjectLogits>& objects) {
    Labels labels(geometry.shape());
    std::map<std::uint16_t, float> handicaps;
    for (const auto& [id, object] : objects) {
        const auto object_id = static_cast<std::uint16_t>(id);
        const Logits& mask = *object.mask;
        const auto& values = mask.values.values;
        const auto count = std::count_if(values.begin(), values.end(), [](float v) { return v > 0; });
        const auto handicap = static_cast<float>(kSmallness * std::log(std::max(1.0, static_cast<double>(count))));
        handicaps[object_id] = handicap;
        const auto [low, high] = mask.region;
        for (auto z = low[0]; z < high[0]; ++z)
            for (auto y = low[1]; y < high[1]; ++y) {
                const float* own = mask.values.line(z - low[0], y - low[1]);
                std::uint16_t* label = labels.line(z, y) + low[2];
                for (auto x = low[2]; x < high[2]; ++x, ++own, ++label) {
                    if (!(*own > 0)) continue;
                    if (*label) {
                        const float other = at(*objects.at(*label).mask, {z, y, x});
                        const float rival = std::min(other, kMostSure) - handicaps.at(*label);
                        if (!(std::min(*own, kMostSure) - handicap > rival)) continue;
                    }
                    *label = object_id;
                }
            }
    }
    for (const auto& [id, object] : objects)
        for (const auto& click : object.clicks) {
            const std::uint16_t owner = labels.values[labels.index(click)];
            if (owner != 0 && owner != id)
                give_overlap(labels, geometry.spacing_mm(), owner, objects.at(owner), static_cast<std::uint16_t>(id), object,
                         click);
        }
    return labels;
}

}  // namespace gstk::impl
