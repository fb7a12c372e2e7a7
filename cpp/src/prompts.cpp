#include "prompts.hpp"

#include <algorithm>

#include "error.hpp"

namespace gstk::impl {
namespace {

// Rounds down, also below 0, as Python's // does.
std::int64_t half_of(std::int64_t sum) {
    return sum >= 0 ? sum / 2 : (sum - 1) / 2;
}

}  // namespace

void Box::check() const {
    const bool rising = first[0] <= last[0] && first[1] <= last[1] && first[2] <= last[2];
    if (!rising || z_mid < first[0] || z_mid > last[0])
        throw error(GSTK_ERROR_PROMPT, "got a box from (z, y, x) ", text(first), " to ", text(last), " with z_mid ",
                    z_mid, ", expected min <= max");
}

Voxel Box::centre() const {
    return {z_mid, half_of(first[1] + last[1]), half_of(first[2] + last[2])};
}

bool ObjectPrompts::can_start() const {
    return box || std::any_of(points.begin(), points.end(), [](const Point& p) { return p.foreground; });
}

NetworkPoints network_points(const ObjectPrompts& prompts) {
    NetworkPoints result;
    const auto add = [&](const Voxel& zyx, bool foreground) {
        result.coords.push_back(as_triple(zyx));
        result.labels.push_back(foreground ? 1 : 0);
    };
    if (prompts.box) add(prompts.box->centre(), true);
    for (const auto& p : prompts.points) add(p.zyx, p.foreground);
    return result;
}

NetworkPoints latest_points(NetworkPoints points, std::size_t most) {
    const std::size_t count = points.labels.size();
    if (count <= most) return points;
    const auto found = std::find(points.labels.begin(), points.labels.end(), 1);
    const auto first = found == points.labels.end() ? 0 : static_cast<std::size_t>(found - points.labels.begin());
    NetworkPoints kept;
    const auto keep = [&](std::size_t i) {
        kept.coords.push_back(points.coords[i]);
        kept.labels.push_back(points.labels[i]);
    };
    const std::size_t latest = count - most + 1;
    if (first < latest) keep(first);
    for (std::size_t i = first < latest ? latest : latest - 1; i < count; ++i) keep(i);
    return kept;
}

}  // namespace gstk::impl
