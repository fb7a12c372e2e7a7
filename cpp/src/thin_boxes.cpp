#include "thin_boxes.hpp"

#include <algorithm>

namespace gstk::impl {
namespace {

constexpr std::int64_t kFewVoxels = 3;
// Dice of the network's mask and the ellipsoid in the box, within the box, from which the network's is taken.
constexpr double kAgreement = 0.9;

}  // namespace

bool is_thin(const Box& box, const Window& window) {
    bool is_small = true;
    for (int a = 0; a < 3; ++a) {
        const std::int64_t side = box.last[a] - box.first[a] + 1;
        if (side == 1 || static_cast<double>(side) < window.step[a]) return true;
        is_small = is_small && side <= kFewVoxels;
    }
    return is_small;
}

Logits answer_thin_box(const Box& box, const Geometry& geometry, const Logits& answer) {
    Logits ellipsoid = fallback_mask({{}, box}, geometry, nullptr);
    const Region whole = union_of(&answer.region, &ellipsoid.region);
    Logits wider{whole, spread(answer, whole)};
    std::int64_t answered = 0, expected = 0, both = 0;
    const Region& inner = ellipsoid.region;
    for (std::int64_t z = inner.start[0]; z < inner.stop[0]; ++z)
        for (std::int64_t y = inner.start[1]; y < inner.stop[1]; ++y) {
            const float* own = wider.values.line(z - whole.start[0], y - whole.start[1]) - whole.start[2];
            const float* other = ellipsoid.values.line(z - inner.start[0], y - inner.start[1]) - inner.start[2];
            for (std::int64_t x = inner.start[2]; x < inner.stop[2]; ++x) {
                answered += own[x] > 0;
                expected += other[x] > 0;
                both += own[x] > 0 && other[x] > 0;
            }
        }
    const double agreement = 2 * static_cast<double>(both) / static_cast<double>(answered + expected);
    return agreement >= kAgreement ? wider : ellipsoid;
}

}  // namespace gstk::impl
