#include "second_look.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "fields.hpp"

namespace gstk::impl {
namespace {

// Points on the object and beside it, and how many fewer there are after each click.
constexpr std::size_t kOn = 4, kOff = 2, kFewer = 2;
// A point is as good as it is deep, or as 7/10 of its way to others of its kind; below 1.5 voxels it is none.
constexpr std::int64_t kDepth = 10, kAway = 7, kLeast = 15;

std::size_t left_of(std::size_t count, std::size_t clicks) {
    return count - std::min(count, kFewer * clicks);
}

// Voxels, `count` at most, that are deep and far from the points taken and from each other. depth: turned into scores.
std::vector<Triple> scattered(Grid<std::int64_t>& depth, const std::vector<Triple>& taken, std::size_t count) {
    const Shape& n = depth.shape;
    for (auto& value : depth.values) value *= kDepth;
    const auto keep_away = [&](const Voxel& point) {
        for (std::int64_t z = 0; z < n[0]; ++z)
            for (std::int64_t y = 0; y < n[1]; ++y) {
                const std::int64_t away = std::abs(z - point[0]) + std::abs(y - point[1]);
                std::int64_t* line = depth.line(z, y);
                for (std::int64_t x = 0; x < n[2]; ++x)
                    line[x] = std::min(line[x], kAway * (away + std::abs(x - point[2])));
            }
    };
    for (const auto& point : taken) {
        Voxel near{};
        for (std::size_t a = 0; a < 3; ++a) near[a] = static_cast<std::int64_t>(std::nearbyint(point[a]));
        keep_away(near);
    }
    std::vector<Triple> found;
    while (found.size() < count) {
        const auto best = std::max_element(depth.values.begin(), depth.values.end());
        if (*best < kLeast) break;
        const std::int64_t i = best - depth.values.begin(), plane = n[1] * n[2];
        const Voxel voxel{i / plane, i % plane / n[2], i % n[2]};
        found.push_back({static_cast<double>(voxel[0]), static_cast<double>(voxel[1]), static_cast<double>(voxel[2])});
        keep_away(voxel);
    }
    return found;
}

}  // namespace

bool second_look_is_wanted(std::size_t clicks, bool boxed) {
    return boxed && left_of(std::max(kOn, kOff), clicks) > 0;
}

OwnPoints own_points(const Grid<std::uint8_t>& mask, const Hints& hints, const std::vector<Triple>& said,
                     const std::vector<std::int64_t>& labels) {
    const auto inside = std::count(mask.values.begin(), mask.values.end(), 1);
    if (!hints.box || inside == 0 || inside == static_cast<std::ptrdiff_t>(mask.values.size())) return {};
    const auto taken = [&](std::int64_t label) {
        std::vector<Triple> found;
        for (std::size_t i = 0; i < said.size(); ++i)
            if (labels[i] == label) found.push_back(said[i]);
        return found;
    };
    const std::size_t clicks = hints.on.size() + hints.off.size();
    OwnPoints own;
    if (const std::size_t count = left_of(kOn, clicks)) {
        Grid<std::int64_t> within = taxicab(mask);
        own.on = scattered(within, taken(1), count);
    }
    if (const std::size_t count = left_of(kOff, clicks)) {
        Grid<std::uint8_t> others = mask;
        for (auto& value : others.values) value = value == 0;
        Grid<std::int64_t> beside = taxicab(others);
        each_radius(mask.shape, *hints.box, [&](std::size_t i, float z, float y, float x) {
            if (std::max(std::max(z, y), x) >= kSurroundings * kSurroundings) beside.values[i] = 0;
        });
        own.off = scattered(beside, taken(0), count);
    }
    return own;
}

}  // namespace gstk::impl
