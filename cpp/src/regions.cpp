#include "regions.hpp"

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
            for (std::int64_t x = 0; x < mask.shape[2]; ++x) {
                if (!line[x]) continue;
                const Voxel voxel{z, y, x};
                for (int a = 0; a < 3; ++a) {
                    box.start[a] = std::min(box.start[a], voxel[a]);
                    box.stop[a] = std::max(box.stop[a], voxel[a] + 1);
                }
            }
        }
    if (box.stop[0] == 0) return std::nullopt;
    return box;
}

// Works on whole runs along x at a time.
void add_component(const Mask& mask, const Voxel& from, Mask& component) {
    const Shape& shape = mask.shape;
    struct Run {
        std::int64_t z, y, first, last;
    };
    std::vector<Run> waiting;
    // Adds the run that holds x, unless it was added before; returns where it ends.
    const auto add_run = [&](std::int64_t z, std::int64_t y, std::int64_t x) {
        const std::uint8_t* line = mask.line(z, y);
        std::uint8_t* added = component.line(z, y);
        if (!line[x] || added[x]) return x;
        std::int64_t first = x, last = x;
        while (first > 0 && line[first - 1]) --first;
        while (last + 1 < shape[2] && line[last + 1]) ++last;
        std::fill(added + first, added + last + 1, std::uint8_t{1});
        waiting.push_back({z, y, first, last});
        return last;
    };
    add_run(from[0], from[1], from[2]);
    while (!waiting.empty()) {
        const Run run = waiting.back();
        waiting.pop_back();
        const std::int64_t last = std::min(run.last + 1, shape[2] - 1);
        for (auto z = std::max<std::int64_t>(run.z - 1, 0); z <= std::min(run.z + 1, shape[0] - 1); ++z)
            for (auto y = std::max<std::int64_t>(run.y - 1, 0); y <= std::min(run.y + 1, shape[1] - 1); ++y)
                for (auto x = std::max<std::int64_t>(run.first - 1, 0); x <= last; ++x) x = add_run(z, y, x);
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
