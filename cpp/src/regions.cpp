#include "regions.hpp"

#include <algorithm>
#include <cstring>

namespace gstk::impl {

Mask above_zero(const Grid<float>& values) {
    Mask mask(values.shape);
    std::transform(values.values.begin(), values.values.end(), mask.values.begin(), [](float v) { return v > 0; });
    return mask;
}

std::optional<Region> bounds(const Mask& mask) {
    Region box{mask.shape, {}};
    for (std::int64_t z = 0; z < mask.shape[0]; ++z)
        for (std::int64_t y = 0; y < mask.shape[1]; ++y) {
            const std::uint8_t* line = mask.line(z, y);
            const std::uint8_t* const end = line + mask.shape[2];
            const std::uint8_t* first = std::find_if(line, end, [](std::uint8_t v) { return v != 0; });
            if (first == end) continue;
            std::int64_t last = mask.shape[2] - 1;
            while (!line[last]) --last;
            const Voxel low{z, y, first - line}, high{z, y, last};
            for (int a = 0; a < 3; ++a) {
                box.start[a] = std::min(box.start[a], low[a]);
                box.stop[a] = std::max(box.stop[a], high[a] + 1);
            }
        }
    if (box.stop[0] == 0) return std::nullopt;
    return box;
}

// Works on whole runs along x at a time.
void add_component(const Mask& mask, const Voxel& from, Mask& component) {
    const Shape& shape = mask.shape;
    Mask open(shape);  // 1 in the mask where nothing was added yet
    std::transform(mask.values.begin(), mask.values.end(), component.values.begin(), open.values.begin(),
                   [](std::uint8_t in, std::uint8_t added) -> std::uint8_t { return in && !added; });
    struct Run {
        std::int64_t z, y, first, last;
    };
    std::vector<Run> waiting;
    // Adds the runs that have voxels from `low` to `high` along x.
    const auto add_runs = [&](std::int64_t z, std::int64_t y, std::int64_t low, std::int64_t high) {
        std::uint8_t* line = open.line(z, y);
        std::uint8_t* const end = line + shape[2];
        std::uint8_t* from_here = line + low;
        while (from_here <= line + high) {
            void* found = std::memchr(from_here, 1, static_cast<std::size_t>(line + high + 1 - from_here));
            if (!found) return;
            auto* first = static_cast<std::uint8_t*>(found);
            void* gap = std::memchr(first, 0, static_cast<std::size_t>(end - first));
            std::uint8_t* const stop = gap ? static_cast<std::uint8_t*>(gap) : end;
            while (first > line && first[-1]) --first;
            std::fill(first, stop, std::uint8_t{0});
            std::fill(component.line(z, y) + (first - line), component.line(z, y) + (stop - line), std::uint8_t{1});
            waiting.push_back({z, y, first - line, stop - line - 1});
            from_here = stop;
        }
    };
    add_runs(from[0], from[1], from[2], from[2]);
    while (!waiting.empty()) {
        const Run run = waiting.back();
        waiting.pop_back();
        const std::int64_t low = std::max<std::int64_t>(run.first - 1, 0), high = std::min(run.last + 1, shape[2] - 1);
        for (auto z = std::max<std::int64_t>(run.z - 1, 0); z <= std::min(run.z + 1, shape[0] - 1); ++z)
            for (auto y = std::max<std::int64_t>(run.y - 1, 0); y <= std::min(run.y + 1, shape[1] - 1); ++y)
                add_runs(z, y, low, high);
    }
}

bool intersects(const Region& first, const Region& second) {
    for (int a = 0; a < 3; ++a)
        if (std::max(first.start[a], second.start[a]) >= std::min(first.stop[a], second.stop[a])) return false;
    return true;
}

Region union_of(const Region* first, const Region* second) {
    for (const Region** region : {&first, &second})
        if (*region && !intersects(**region, **region)) *region = nullptr;  // there is nothing in it
    if (!first || !second) return first ? *first : second ? *second : Region{};
    Region result;
    for (int a = 0; a < 3; ++a) {
        result.start[a] = std::min(first->start[a], second->start[a]);
        result.stop[a] = std::max(first->stop[a], second->stop[a]);
    }
    return result;
}

}  // namespace gstk::impl
