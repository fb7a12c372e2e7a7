#include "masks.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace gstk::impl {
namespace {

// A click changes voxels up to √2 times as far from it as from the nearest click that says the opposite.
constexpr float kSquaredReach = 2.0f;
// Radius of the ball that a click makes without the network, over the finest spacing.
constexpr double kBallVoxels = 3;
// What these are, gstk.masks says.
constexpr float kCentre = 12, kFarShare = 0.3f, kWide = 3, kMostLogit = 6;

// Adds to `part` everything of `mask` that is 26-connected to a voxel; whole runs along x at a time.
void flood(const Grid<std::uint8_t>& mask, const Voxel& from, Grid<std::uint8_t>& part) {
    const Shape& shape = mask.shape;
    struct Run {
        std::int64_t z, y, first, last;
    };
    std::vector<Run> waiting;
    // Takes the run that holds x, unless it was taken; returns where it ends.
    const auto take = [&](std::int64_t z, std::int64_t y, std::int64_t x) {
        const std::uint8_t* line = mask.line(z, y);
        std::uint8_t* taken = part.line(z, y);
        if (!line[x] || taken[x]) return x;
        std::int64_t first = x, last = x;
        while (first > 0 && line[first - 1]) --first;
        while (last + 1 < shape[2] && line[last + 1]) ++last;
        std::fill(taken + first, taken + last + 1, std::uint8_t{1});
        waiting.push_back({z, y, first, last});
        return last;
    };
    take(from[0], from[1], from[2]);
    while (!waiting.empty()) {
        const Run run = waiting.back();
        waiting.pop_back();
        const std::int64_t last = std::min(run.last + 1, shape[2] - 1);
        for (auto z = std::max<std::int64_t>(run.z - 1, 0); z <= std::min(run.z + 1, shape[0] - 1); ++z)
            for (auto y = std::max<std::int64_t>(run.y - 1, 0); y <= std::min(run.y + 1, shape[1] - 1); ++y)
                for (auto x = std::max<std::int64_t>(run.first - 1, 0); x <= last; ++x) x = take(z, y, x);
    }
}

// Values of a region on a wider one; -1, outside the mask, where it does not reach.
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

// Makes the mask after a click what the click's place says of it too; why, gstk.masks says.
void weigh(const Point& click, const Region& region, const Grid<float>& old, Grid<float>& now) {
    const SquaredDistance away2(click.zyx, region, {1, 1, 1});
    const auto is_right = [&](float value) { return (value > 0) == click.foreground; };
    Voxel at{};
    for (int a = 0; a < 3; ++a) at[a] = click.zyx[a] - region.start[a];
    float radius2 = std::numeric_limits<float>::infinity();
    if (!click.foreground)  // beyond the region there is no object
        for (int a = 0; a < 3; ++a) {
            const auto face = static_cast<float>(std::min(at[a] + 1, old.shape[a] - at[a]));
            radius2 = std::min(radius2, face * face);
        }
    const auto each_voxel = [&](const auto& what) {
        std::size_t i = 0;
        for (std::int64_t z = 0; z < old.shape[0]; ++z)
            for (std::int64_t y = 0; y < old.shape[1]; ++y)
                for (std::int64_t x = 0; x < old.shape[2]; ++x, ++i) what(i, away2.at(z, y, x));
    };
    each_voxel([&](std::size_t i, float distance2) {
        if (is_right(old.values[i])) radius2 = std::min(radius2, distance2);
    });
    if (is_right(old.values[old.index(at)]) || std::isinf(radius2)) return;
    const auto clipped = [](float value) { return std::min(std::max(value, -kMostLogit), kMostLogit); };
    each_voxel([&](std::size_t i, float distance2) {
        const float radii2 = distance2 / radius2;
        float& value = now.values[i];
        value = clipped(value);
        const float ball = kCentre * std::max(1 - radii2, 0.0f);
        if (click.foreground) {
            value += ball;
        } else {
            const float share = kFarShare + (1 - kFarShare) / (1 + radii2 / (kWide * kWide));
            value = value * share + (1 - share) * clipped(old.values[i]) - ball;
        }
    });
    float& clicked = now.values[now.index(at)];
    clicked = click.foreground ? std::max(clicked, 1.0f) : std::min(clicked, -1.0f);
}

}  // namespace

Grid<std::uint8_t> clicked_components(const Grid<std::uint8_t>& mask, const std::vector<std::array<float, 3>>& points) {
    Grid<std::uint8_t> held(mask.shape);
    bool any = false;
    for (const auto& p : points) {
        Voxel v{};
        for (int a = 0; a < 3; ++a) v[a] = static_cast<std::int64_t>(std::nearbyint(p[a]));
        if (!mask.holds(v) || !mask.values[mask.index(v)]) continue;
        any = true;
        flood(mask, v, held);
    }
    return any ? held : mask;
}

void clean(Logits& logits, const ObjectPrompts& prompts) {
    std::vector<std::array<float, 3>> clicked;
    for (const auto& p : prompts.points)
        if (p.foreground) {
            std::array<float, 3> local{};
            for (int a = 0; a < 3; ++a) local[a] = static_cast<float>(p.zyx[a] - logits.region.start[a]);
            clicked.push_back(local);
        }
    auto& values = logits.values.values;
    Grid<std::uint8_t> mask(logits.values.shape);
    std::transform(values.begin(), values.end(), mask.values.begin(), [](float v) { return v > 0; });
    const auto kept = clicked_components(mask, clicked);
    for (std::size_t i = 0; i < values.size(); ++i)
        if (mask.values[i] && !kept.values[i]) values[i] = -1.0f;
}

void hold(Logits& logits, const ObjectPrompts& prompts) {
    for (const auto& p : prompts.points) {
        Voxel local{};
        for (int a = 0; a < 3; ++a) local[a] = p.zyx[a] - logits.region.start[a];
        if (!logits.values.holds(local)) continue;
        float& value = logits.values.values[logits.values.index(local)];
        value = p.foreground ? std::max(value, 1.0f) : std::min(value, -1.0f);
    }
}

Logits change_near(const Reach& reach, const Logits& before, const Logits& after) {
    const Region region = merged(&before.region, &after.region);
    Grid<float> old = spread(before, region);
    Grid<float> now = spread(after, region);
    const SquaredDistance own(reach.click.zyx, region, reach.spacing_mm);
    std::vector<SquaredDistance> others;
    for (const auto& zyx : reach.opposite) others.emplace_back(zyx, region, reach.spacing_mm);
    Voxel clicked{};
    for (int a = 0; a < 3; ++a) clicked[a] = reach.click.zyx[a] - region.start[a];
    if (reach.weighed && old.holds(clicked)) weigh(reach.click, region, old, now);
    Grid<std::uint8_t> changed(region.shape());
    std::size_t i = 0;
    for (std::int64_t z = 0; z < changed.shape[0]; ++z)
        for (std::int64_t y = 0; y < changed.shape[1]; ++y)
            for (std::int64_t x = 0; x < changed.shape[2]; ++x, ++i) {
                const bool was = old.values[i] > 0, is = now.values[i] > 0;
                if (was == is || is != reach.click.foreground) continue;
                const float distance = own.at(z, y, x);
                changed.values[i] = std::all_of(others.begin(), others.end(), [&](const SquaredDistance& other) {
                    return distance < kSquaredReach * other.at(z, y, x);
                });
            }
    if (changed.holds(clicked)) {
        Grid<std::uint8_t> part(changed.shape);
        flood(changed, clicked, part);
        for (std::size_t j = 0; j < part.values.size(); ++j)
            if (part.values[j]) old.values[j] = now.values[j];
    }
    return {region, std::move(old)};
}

Logits prompt_shape(const ObjectPrompts& prompts, const Geometry& geometry, const Logits* before) {
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
    const auto include = [&](const Region& part) { whole = merged(whole ? &*whole : nullptr, &part); };
    if (before) include(before->region);
    if (prompts.box) include(around(prompts.box->first, prompts.box->last, 0));
    for (const auto& p : prompts.points)
        if (p.foreground) include(around(p.zyx, p.zyx, radius_mm));
    Logits found{*whole, before ? spread(*before, *whole) : Grid<float>(whole->shape(), -1.0f)};
    const auto each_voxel = [&](const Region& part, const auto& change) {
        for (auto z = std::max(part.start[0], whole->start[0]); z < std::min(part.stop[0], whole->stop[0]); ++z)
            for (auto y = std::max(part.start[1], whole->start[1]); y < std::min(part.stop[1], whole->stop[1]); ++y) {
                float* line = found.values.line(z - whole->start[0], y - whole->start[1]) - whole->start[2];
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
    return found;
}

Region merged(const Region* first, const Region* second) {
    if (!first || !second) return first ? *first : second ? *second : Region{};
    Region result;
    for (int a = 0; a < 3; ++a) {
        result.start[a] = std::min(first->start[a], second->start[a]);
        result.stop[a] = std::max(first->stop[a], second->stop[a]);
    }
    return result;
}

}  // namespace gstk::impl
