#include "window_selection.hpp"

#include <algorithm>
#include <cmath>

#include "click_update.hpp"

namespace gstk::impl {
namespace {

// Side of the first window around a lone click, over the side that it has at the volume's finest spacing.
constexpr double kFirstField = 2.0;

double volume_of(const Triple& step) {
    return step[0] * step[1] * step[2];
}

// The training's window around the first foreground point, where it holds all prompts and is no larger than allowed.
std::optional<Window> training_window(const NetworkPoints& points, const ObjectPrompts& prompts,
                                      const WindowPolicy& policy) {
    if (!policy.training_window) return std::nullopt;
    const auto first = std::find(points.labels.begin(), points.labels.end(), 1) - points.labels.begin();
    const auto window = policy.training_window(points.coords[static_cast<std::size_t>(first)]);
    if (!window || count_of(window->shape) > policy.max_voxels) return std::nullopt;
    const auto holds = [&](const Triple& zyx) { return window->holds(zyx); };
    const bool holds_all = std::all_of(points.coords.begin(), points.coords.end(), holds) &&
                           (!prompts.box || (holds(as_triple(prompts.box->first)) && holds(as_triple(prompts.box->last))));
    return holds_all ? window : std::nullopt;
}

// The window for an object between two faces that is small in a window; nothing where there is no better one. Where the
// network has a resolution it is the training's, and none is finer, along no axis.
std::optional<Window> narrower_window(const Geometry& geometry, const Faces& faces, const WindowPolicy& policy) {
    if (!policy.training_window) return frame(geometry, faces, policy);
    Triple middle{}, last{};
    for (int a = 0; a < 3; ++a) {
        middle[a] = (faces.low[a] + faces.high[a] - 1) / 2;
        last[a] = faces.high[a] - 1;
    }
    const auto window = policy.training_window(middle);
    const bool fits = window && count_of(window->shape) <= policy.max_voxels && window->holds(faces.low) && window->holds(last);
    return fits ? window : std::nullopt;
}

}  // namespace

Window first_window(const Geometry& geometry, const ObjectPrompts& prompts, const WindowPolicy& policy) {
    constexpr double kFar = 1e300;
    const NetworkPoints points = network_points(prompts);
    if (const auto window = training_window(points, prompts, policy)) return *window;
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
        return frame(geometry, faces, policy);
    }
    // A lone click says nothing about the object's size: begin with a window of the volume's finest spacing.
    const Triple& spacing = geometry.spacing_mm();
    const double side_mm = kFirstField * *std::min_element(spacing.begin(), spacing.end()) *
                           std::pow(static_cast<double>(policy.max_voxels), 1.0 / 3.0) / (1 + 2 * policy.margin);
    for (int a = 0; a < 3; ++a) {
        const double half = side_mm / spacing[a] / 2, centre = (faces.low[a] + faces.high[a]) / 2;
        faces.low[a] = std::min(faces.low[a], centre - half);
        faces.high[a] = std::max(faces.high[a], centre + half);
    }
    return frame(geometry, faces, policy);
}

std::optional<Window> adapt_window(const Geometry& geometry, const Window& window, const Grid<float>& logits,
                                    const ObjectPrompts& prompts, const WindowPolicy& policy) {
    if (!policy.adapts) return std::nullopt;
    std::vector<std::array<float, 3>> clicked;
    for (const auto& p : prompts.points)
        if (p.foreground) clicked.push_back(window.to_window(as_triple(p.zyx)));
    const auto box = bounds(clicked_components(above_zero(logits), clicked));
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
    const auto better = cut ? frame(geometry, faces, policy) : narrower_window(geometry, faces, policy);
    if (!better) return std::nullopt;
    const double before = volume_of(window.step), now = volume_of(better->step);
    return (cut ? now > 1.1 * before : now < 0.4 * before) ? better : std::nullopt;
}

std::vector<Window> coarser_windows(const Geometry& geometry, const Window& window, const WindowPolicy& policy) {
    WindowPolicy whole = policy;
    whole.margin = 0;
    Faces faces{window.start, window.stop()};
    for (int a = 0; a < 3; ++a) {
        faces.low[a] = std::max(faces.low[a], 0.0);
        faces.high[a] = std::min(faces.high[a], static_cast<double>(geometry.shape()[a]));
    }
    const std::int64_t least = policy.min_side * policy.min_side * policy.min_side;
    std::vector<Window> windows;
    while (whole.max_voxels > least) {
        whole.max_voxels =
            std::max(least, static_cast<std::int64_t>(static_cast<double>(whole.max_voxels) * std::sqrt(0.5)));
        const Window coarser = frame(geometry, faces, whole);
        if (count_of(coarser.shape) < count_of((windows.empty() ? window : windows.back()).shape))
            windows.push_back(coarser);
    }
    return windows;
}

}  // namespace gstk::impl
