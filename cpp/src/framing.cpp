#include "framing.hpp"

#include <algorithm>
#include <cmath>

#include "masks.hpp"

namespace gstk::impl {
namespace {

// Side of the first window around a lone click, over the side that it has at the volume's finest spacing.
constexpr double kFirstField = 2.0;

double volume_of(const Triple& step) {
    return step[0] * step[1] * step[2];
}

// First and last voxel + 1 of a mask along each axis; nothing where it is empty.
std::optional<Region> bounds_of(const Grid<std::uint8_t>& mask) {
    Region box{mask.shape, {}};
    for (std::int64_t z = 0; z < mask.shape[0]; ++z)
        for (std::int64_t y = 0; y < mask.shape[1]; ++y) {
            const auto* line = mask.line(z, y);
            for (std::int64_t x = 0; x < mask.shape[2]; ++x) {
                if (!line[x]) continue;
                const Voxel v{z, y, x};
                for (int a = 0; a < 3; ++a) {
                    box.start[a] = std::min(box.start[a], v[a]);
                    box.stop[a] = std::max(box.stop[a], v[a] + 1);
                }
            }
        }
    if (box.stop[0] == 0) return std::nullopt;
    return box;
}

}  // namespace

Window first_window(const Geometry& geometry, const ObjectPrompts& prompts, const Framing& framing) {
    constexpr double kFar = 1e300;
    const NetworkPoints points = network_points(prompts);
    Faces faces{{kFar, kFar, kFar}, {-kFar, -kFar, -kFar}};
    const auto include = [&](const Triple& first, const Triple& last) {
        for (int a = 0; a < 3; ++a) {
            faces.low[a] = std::min(faces.low[a], first[a]);
            faces.high[a] = std::max(faces.high[a], last[a] + 1);
        }
    };
    for (std::size_t i = 0; i < points.coords.size(); ++i)
        if (points.labels[i] == 1) include(points.coords[i], points.coords[i]);
    if (prompts.box) {
        include(as_triple(prompts.box->first), as_triple(prompts.box->last));
        return frame(geometry, faces, framing);
    }
    // A lone click says nothing about the object's size: begin with a window of the volume's finest spacing.
    const Triple& spacing = geometry.spacing_mm();
    const double side_mm = kFirstField * *std::min_element(spacing.begin(), spacing.end()) *
                           std::pow(static_cast<double>(framing.voxels), 1.0 / 3.0) / (1 + 2 * framing.margin);
    for (int a = 0; a < 3; ++a) {
        const double half = side_mm / spacing[a] / 2, centre = (faces.low[a] + faces.high[a]) / 2;
        faces.low[a] = std::min(faces.low[a], centre - half);
        faces.high[a] = std::max(faces.high[a], centre + half);
    }
    return frame(geometry, faces, framing);
}

std::optional<Window> better_window(const Geometry& geometry, const Window& window, const Grid<float>& logits,
                                    const ObjectPrompts& prompts, const Framing& framing) {
    Grid<std::uint8_t> mask(logits.shape);
    std::transform(logits.values.begin(), logits.values.end(), mask.values.begin(), [](float v) { return v > 0; });
    std::vector<std::array<float, 3>> clicked;
    for (const auto& p : prompts.points)
        if (p.foreground) clicked.push_back(window.to_window(as_triple(p.zyx)));
    const auto box = bounds_of(clicked_components(mask, clicked));
    if (!box) return std::nullopt;
    const Triple end = window.stop();
    Faces faces{};
    std::array<bool, 3> cut_low{}, cut_high{};
    double longest = 0;
    for (int a = 0; a < 3; ++a) {
        const auto side = static_cast<double>(geometry.shape()[a]);
        faces.low[a] = static_cast<double>(box->start[a]) * window.step[a] + window.start[a];
        faces.high[a] = static_cast<double>(box->stop[a]) * window.step[a] + window.start[a];
        longest = std::max(longest, faces.high[a] - faces.low[a]);
        cut_low[a] = box->start[a] == 0 && window.start[a] > 0.5;
        cut_high[a] = box->stop[a] == window.shape[a] && end[a] < side - 0.5;
    }
    const auto include = [&](const Voxel& voxel) {
        for (int a = 0; a < 3; ++a) {
            faces.low[a] = std::min(faces.low[a], static_cast<double>(voxel[a]));
            faces.high[a] = std::max(faces.high[a], static_cast<double>(voxel[a]) + 1);
        }
    };
    for (const auto& p : prompts.points) include(p.zyx);
    if (prompts.box) {
        include(prompts.box->first);
        include(prompts.box->last);
    }
    const auto any = [](const std::array<bool, 3>& flags) { return flags[0] || flags[1] || flags[2]; };
    const bool cut = any(cut_low) || any(cut_high);
    if (cut)
        for (int a = 0; a < 3; ++a) {
            const double grown = 0.5 * longest;
            if (cut_low[a]) faces.low[a] -= grown;
            if (cut_high[a]) faces.high[a] += grown;
            faces.low[a] = std::max(faces.low[a], 0.0);
            faces.high[a] = std::min(faces.high[a], static_cast<double>(geometry.shape()[a]));
        }
    const Window better = frame(geometry, faces, framing);
    const double before = volume_of(window.step), now = volume_of(better.step);
    return (cut ? now > 1.1 * before : now < 0.4 * before) ? std::optional<Window>(better) : std::nullopt;
}

}  // namespace gstk::impl
