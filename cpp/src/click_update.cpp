#include "click_update.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace gstk::impl {
namespace {

// A click changes voxels up to √2 times as far from it as from the nearest click that says the opposite.
constexpr float kSquaredScope = 2.0f;
// And up to this many times as far as the nearest voxel that is right as it is; at least the ball of a click. That far
// where the network changes nothing else, or a box bounds it: the factor falls towards 1 with the root of the share that
// belongs to the click.
constexpr double kErrorReach = 5;
// Radius of the ball that a click makes without the network, over the finest spacing.
constexpr double kBallVoxels = 3;

bool holds(const Region& region, const Voxel& voxel) {
    for (int a = 0; a < 3; ++a)
        if (voxel[a] < region.start[a] || voxel[a] >= region.stop[a]) return false;
    return true;
}

}  // namespace

Grid<float> spread(const Logits& logits, const Region& wider) {
    Grid<float> result(wider.shape(), -1.0f);
    const Shape& shape = logits.values.shape;
    for (std::int64_t z = 0; z < shape[0]; ++z)
        for (std::int64_t y = 0; y < shape[1]; ++y) {
            const float* from = logits.values.line(z, y);
            std::copy(
                from, from + shape[2],
                result.line(z + logits.region.start[0] - wider.start[0], y + logits.region.start[1] - wider.start[1]) +
                    (logits.region.start[2] - wider.start[2]));
        }
    return result;
}

Mask clicked_components(const Mask& mask, const std::vector<std::array<float, 3>>& points) {
    Mask held(mask.shape);
    bool any = false;
    for (const auto& p : points) {
        Voxel v{};
        for (int a = 0; a < 3; ++a) v[a] = static_cast<std::int64_t>(std::nearbyint(p[a]));
        if (!mask.holds(v) || !mask.values[mask.index(v)]) continue;
        any = true;
        add_component(mask, v, held);
    }
    return any ? held : mask;
}

void keep_clicked_components(Logits& logits, const ObjectPrompts& prompts) {
    std::vector<std::array<float, 3>> clicked;
    for (const auto& p : prompts.points)
        if (p.foreground) {
            std::array<float, 3> local{};
            for (int a = 0; a < 3; ++a) local[a] = static_cast<float>(p.zyx[a] - logits.region.start[a]);
            clicked.push_back(local);
        }
    auto& values = logits.values.values;
    const Mask mask = above_zero(logits.values);
    const Mask kept = clicked_components(mask, clicked);
    for (std::size_t i = 0; i < values.size(); ++i)
        if (mask.values[i] && !kept.values[i]) values[i] = -1.0f;
}

void enforce_clicks(Logits& logits, const ObjectPrompts& prompts) {
    for (const auto& p : prompts.points) {
        Voxel local{};
        for (int a = 0; a < 3; ++a) local[a] = p.zyx[a] - logits.region.start[a];
        if (!logits.values.holds(local)) continue;
        float& value = logits.values.values[logits.values.index(local)];
        value = p.foreground ? std::max(value, 1.0f) : std::min(value, -1.0f);
    }
}

Logits apply_click(const ClickScope& scope, const Logits& before, const Logits& after) {
    const Region region = union_of(&before.region, &after.region);
    Voxel clicked{};
    for (int a = 0; a < 3; ++a) clicked[a] = scope.click.zyx[a] - region.start[a];
    Mask changed(region.shape());
    if (!changed.holds(clicked)) return before;  // neither mask comes near
    Grid<float> old = spread(before, region);
    const Grid<float> now = spread(after, region);
    const SquaredDistance own(scope.click.zyx, region, scope.spacing_mm);
    std::vector<SquaredDistance> others;
    for (const auto& zyx : scope.opposite) others.emplace_back(zyx, region, scope.spacing_mm);
    const Shape& shape = changed.shape;
    float radius2 = std::numeric_limits<float>::infinity();
    std::size_t i = 0;
    for (std::int64_t z = 0; z < shape[0]; ++z)
        for (std::int64_t y = 0; y < shape[1]; ++y)
            for (std::int64_t x = 0; x < shape[2]; ++x, ++i)
                if ((old.values[i] > 0) == scope.click.foreground) radius2 = std::min(radius2, own.at(z, y, x));
    const double finest_mm = *std::min_element(scope.spacing_mm.begin(), scope.spacing_mm.end());
    const double least_mm = kBallVoxels * finest_mm;
    const auto squared_reach = [&](double factor) {
        return std::max(static_cast<float>(factor * factor) * radius2, static_cast<float>(least_mm * least_mm));
    };
    const float farthest2 = squared_reach(kErrorReach);
    std::int64_t everywhere = 0;  // voxels that the network changes as the click asks, near it or not
    i = 0;
    for (std::int64_t z = 0; z < shape[0]; ++z)
        for (std::int64_t y = 0; y < shape[1]; ++y)
            for (std::int64_t x = 0; x < shape[2]; ++x, ++i) {
                const bool was = old.values[i] > 0, is = now.values[i] > 0;
                if (was == is || is != scope.click.foreground) continue;
                everywhere += holds(after.region, {z + region.start[0], y + region.start[1], x + region.start[2]});
                const float distance = own.at(z, y, x);
                const auto is_nearer_than = [&](const SquaredDistance& other) {
                    return distance < kSquaredScope * other.at(z, y, x);
                };
                changed.values[i] = distance <= farthest2 && std::all_of(others.begin(), others.end(), is_nearer_than);
            }
    Mask part(changed.shape);
    add_component(changed, clicked, part);
    const auto own_voxels = std::count(part.values.begin(), part.values.end(), 1);
    if (!scope.is_boxed && own_voxels > 0 && own_voxels < everywhere) {
        const double share = static_cast<double>(own_voxels) / static_cast<double>(everywhere);
        const float reach2 = squared_reach(1 + (kErrorReach - 1) * std::sqrt(share));
        i = 0;
        for (std::int64_t z = 0; z < shape[0]; ++z)
            for (std::int64_t y = 0; y < shape[1]; ++y)
                for (std::int64_t x = 0; x < shape[2]; ++x, ++i)
                    if (own.at(z, y, x) > reach2) part.values[i] = 0;
        Mask nearer(part.shape);
        add_component(part, clicked, nearer);
        part = std::move(nearer);
    }
    for (std::size_t j = 0; j < part.values.size(); ++j)
        if (part.values[j]) old.values[j] = now.values[j];
    return {region, std::move(old)};
}

Logits fallback_mask(const ObjectPrompts& prompts, const Geometry& geometry, const Logits* before) {
    const Triple& spacing = geometry.spacing_mm();
    const double radius_mm = kBallVoxels * *std::min_element(spacing.begin(), spacing.end());
    const auto around = [&](const Voxel& first, const Voxel& last, double margin_mm) {
        Region part;
        for (int a = 0; a < 3; ++a) {
            const auto reach = static_cast<std::int64_t>(std::ceil(margin_mm / spacing[a]));
            part.start[a] = std::max<std::int64_t>(0, first[a] - reach);
            part.stop[a] = std::min(geometry.shape()[a], last[a] + reach + 1);
        }
        return part;
    };
    std::optional<Region> whole;
    const auto include = [&](const Region& part) { whole = union_of(whole ? &*whole : nullptr, &part); };
    if (before) include(before->region);
    if (prompts.box) include(around(prompts.box->first, prompts.box->last, 0));
    for (const auto& p : prompts.points)
        if (p.foreground) include(around(p.zyx, p.zyx, radius_mm));
    Logits logits{*whole, before ? spread(*before, *whole) : Grid<float>(whole->shape(), -1.0f)};
    const auto each_voxel = [&](const Region& part, const auto& change) {
        for (auto z = std::max(part.start[0], whole->start[0]); z < std::min(part.stop[0], whole->stop[0]); ++z)
            for (auto y = std::max(part.start[1], whole->start[1]); y < std::min(part.stop[1], whole->stop[1]); ++y) {
                float* line = logits.values.line(z - whole->start[0], y - whole->start[1]) - whole->start[2];
                for (auto x = std::max(part.start[2], whole->start[2]); x < std::min(part.stop[2], whole->stop[2]); ++x)
                    change({z, y, x}, line[x]);
            }
    };
    if (prompts.box && !before) {
        const Box& box = *prompts.box;
        each_voxel(*whole, [&](const Voxel& v, float& value) {
            float inside = 0;
            for (int a = 0; a < 3; ++a) {
                const auto middle = static_cast<float>(static_cast<double>(box.first[a] + box.last[a]) / 2);
                const auto half = static_cast<float>(static_cast<double>(box.last[a] - box.first[a] + 1) / 2);
                const float along = (static_cast<float>(v[a]) - middle) / half;
                inside += along * along;
            }
            if (inside <= 1) value = 1.0f;
        });
    }
    for (const auto& p : prompts.points) {
        const SquaredDistance own(p.zyx, *whole, spacing);
        each_voxel(around(p.zyx, p.zyx, radius_mm), [&](const Voxel& v, float& value) {
            const Region& r = *whole;
            const float away = own.at(v[0] - r.start[0], v[1] - r.start[1], v[2] - r.start[2]);
            if (away <= static_cast<float>(radius_mm * radius_mm)) value = p.foreground ? 1.0f : -1.0f;
        });
    }
    return logits;
}

}  // namespace gstk::impl
