#include "window.hpp"

#include <algorithm>
#include <cmath>

namespace gstk::impl {

Triple Window::stop() const {
    Triple result{};
    for (int a = 0; a < 3; ++a) result[a] = start[a] + step[a] * static_cast<double>(shape[a]);
    return result;
}

double Window::side_mm(const Geometry& geometry) const {
    double voxel_mm3 = 1;
    for (int a = 0; a < 3; ++a) voxel_mm3 *= step[a] * geometry.spacing_mm()[a];
    return std::cbrt(voxel_mm3);
}

std::array<float, 3> Window::to_window(const Triple& zyx) const {
    std::array<float, 3> result{};
    for (int a = 0; a < 3; ++a) result[a] = static_cast<float>((zyx[a] + 0.5 - start[a]) / step[a] - 0.5);
    return result;
}

bool Window::holds(const Triple& zyx) const {
    const Triple end = stop();
    for (int a = 0; a < 3; ++a)
        if (!(zyx[a] + 0.5 >= start[a] && zyx[a] + 0.5 <= end[a])) return false;
    return true;
}

Window Window::part(const Region& voxels, std::int64_t finer) const {
    Window result{};
    for (int a = 0; a < 3; ++a) {
        result.start[a] = start[a] + step[a] * static_cast<double>(voxels.start[a]);
        result.step[a] = step[a] / static_cast<double>(finer);
        result.shape[a] = finer * (voxels.stop[a] - voxels.start[a]);
    }
    return result;
}

Region Window::extent_above_zero(const Grid<float>& values, const std::vector<Triple>& points) const {
    Region held{shape, {}};
    for (std::int64_t z = 0; z < shape[0]; ++z)
        for (std::int64_t y = 0; y < shape[1]; ++y) {
            const float *line = values.line(z, y), *end = line + shape[2];
            const auto above = [](float value) { return value > 0; };
            const float* first = std::find_if(line, end, above);
            if (first == end) continue;
            const float* last = end - 1;
            while (!above(*last)) --last;
            const Voxel low{z, y, first - line}, high{z + 1, y + 1, last - line + 1};
            for (int a = 0; a < 3; ++a) {
                held.start[a] = std::min(held.start[a], low[a]);
                held.stop[a] = std::max(held.stop[a], high[a]);
            }
        }
    for (const auto& zyx : points) {
        const auto local = to_window(zyx);
        for (int a = 0; a < 3; ++a) {
            const auto at = std::clamp<std::int64_t>(static_cast<std::int64_t>(std::nearbyint(local[a])), 0, shape[a] - 1);
            held.start[a] = std::min(held.start[a], at);
            held.stop[a] = std::max(held.stop[a], at + 1);
        }
    }
    for (int a = 0; a < 3; ++a) {
        if (held.stop[a] == 0) held.start[a] = 0, held.stop[a] = 1;
        // A voxel that they reach, and what else that is a mean of.
        const auto rim = 1 + 2 * static_cast<std::int64_t>(std::ceil(std::max(1.0, 1 / step[a])));
        held.start[a] = std::max<std::int64_t>(0, held.start[a] - rim);
        held.stop[a] = std::min(shape[a], held.stop[a] + rim);
    }
    return held;
}

Grid<float> Window::sample(const Volume& volume, const IntensityRange& range) const {
    // Only the voxels that the window's kernels reach are converted: a volume may be far larger than a window.
    Region support;
    Triple local{};
    const Triple end = stop();
    for (int a = 0; a < 3; ++a) {
        const std::int64_t n = volume.geometry.shape()[a];
        const double reach = std::max(step[a], 1.0);
        support.start[a] = std::min(n, std::max<std::int64_t>(0, static_cast<std::int64_t>(start[a] - reach) - 1));
        support.stop[a] = std::max<std::int64_t>(0, std::min(n, static_cast<std::int64_t>(end[a] + reach) + 2));
        if (support.stop[a] <= support.start[a]) return Grid<float>(shape);
        local[a] = start[a] - static_cast<double>(support.start[a]);
    }
    return gstk::impl::sample(volume, support, range, local, step, shape);
}

Region Window::inside(const Shape& volume_shape) const {
    Region result;
    const Triple end = stop();
    for (int a = 0; a < 3; ++a) {
        const std::int64_t n = volume_shape[a];
        result.start[a] = std::clamp<std::int64_t>(static_cast<std::int64_t>(std::ceil(start[a] - 0.5)), 0, n);
        const std::int64_t last = std::min(n, static_cast<std::int64_t>(std::ceil(end[a] - 0.5)));
        result.stop[a] = std::max(result.start[a], last);
    }
    return result;
}

Grid<float> Window::back(Grid<float> values, const Shape& volume_shape) const {
    const Region where = inside(volume_shape);
    Triple from{}, by{};
    for (int a = 0; a < 3; ++a) {
        from[a] = (static_cast<double>(where.start[a]) - start[a]) / step[a];
        by[a] = 1 / step[a];
    }
    return resample(std::move(values), from, by, where.shape(), Outside::kEdge);
}

Grid<float> Window::nearest(const Grid<float>& values, const Shape& volume_shape) const {
    const Region where = inside(volume_shape);
    std::array<std::vector<std::int64_t>, 3> from;
    for (int a = 0; a < 3; ++a)
        for (std::int64_t i = where.start[a]; i < where.stop[a]; ++i)
            from[a].push_back(std::clamp<std::int64_t>(
                static_cast<std::int64_t>((static_cast<double>(i) + 0.5 - start[a]) / step[a]), 0, shape[a] - 1));
    Grid<float> result(where.shape());
    auto to = result.values.begin();
    for (const auto z : from[0])
        for (const auto y : from[1]) {
            const float* line = values.line(z, y);
            to = std::transform(from[2].begin(), from[2].end(), to, [&](std::int64_t x) { return line[x]; });
        }
    return result;
}

Window frame(const Geometry& geometry, const Faces& object, const WindowPolicy& policy) {
    const Triple& spacing = geometry.spacing_mm();
    Triple shape{}, extent_mm{}, field_mm{}, sides{};
    for (int a = 0; a < 3; ++a) {
        shape[a] = static_cast<double>(geometry.shape()[a]);
        extent_mm[a] = (object.high[a] - object.low[a]) * spacing[a];
    }
    const double longest_mm = *std::max_element(extent_mm.begin(), extent_mm.end());
    for (int a = 0; a < 3; ++a)
        field_mm[a] = std::min(extent_mm[a] + 2 * policy.margin * longest_mm, shape[a] * spacing[a]);
    const double finest_mm =
        std::max(policy.min_step * *std::min_element(spacing.begin(), spacing.end()), policy.min_mm);
    const auto most = static_cast<double>(policy.max_voxels), least = static_cast<double>(policy.min_side);
    const auto multiple = static_cast<double>(policy.multiple);
    double voxel_mm = std::max(finest_mm, std::pow(field_mm[0] * field_mm[1] * field_mm[2] / most, 1.0 / 3.0));
    while (true) {
        bool smallest = true;
        for (int a = 0; a < 3; ++a) {
            sides[a] = std::max(std::ceil(field_mm[a] / voxel_mm / multiple) * multiple, least);
            smallest = smallest && sides[a] <= least;
        }
        if (sides[0] * sides[1] * sides[2] <= most || smallest) break;
        voxel_mm *= 1.02;
    }
    Window window{};
    for (int a = 0; a < 3; ++a) {
        double step = voxel_mm / spacing[a];
        if (std::abs(step - 1) < 0.03 && sides[a] >= object.high[a] - object.low[a]) step = 1.0;
        const double size = sides[a] * step;
        const double lowest = std::min(size / 2, shape[a] / 2), highest = std::max(shape[a] - size / 2, shape[a] / 2);
        const double centre = std::min(std::max((object.low[a] + object.high[a]) / 2, lowest), highest);
        // On whole voxels, halves to even: where the steps are 1 the window then holds the volume's own values.
        window.start[a] = std::nearbyint(centre - size / 2);
        window.step[a] = step;
        window.shape[a] = static_cast<std::int64_t>(sides[a]);
    }
    return window;
}

}  // namespace gstk::impl
