#include "axis_map.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

namespace gstk::impl {
namespace {

Matrix inverse(const Matrix& m) {
    const double det = determinant(m);
    Matrix result{};
    for (std::size_t r = 0; r < 3; ++r)
        for (std::size_t c = 0; c < 3; ++c) {
            const std::size_t r1 = (c + 1) % 3, r2 = (c + 2) % 3, c1 = (r + 1) % 3, c2 = (r + 2) % 3;
            result[r][c] = (m[r1][c1] * m[r2][c2] - m[r1][c2] * m[r2][c1]) / det;
        }
    return result;
}

// The closest matrix whose columns are at right angles and of length 1: Newton's way to the polar factor.
Matrix closest_rotation(Matrix m) {
    constexpr int kEnough = 60;  // it doubles its digits at each step, after some that depend on how far off it begins
    for (int i = 0; i < kEnough; ++i) {
        const Matrix other = inverse(m);
        double moved = 0;
        for (std::size_t r = 0; r < 3; ++r)
            for (std::size_t c = 0; c < 3; ++c) {
                const double next = (m[r][c] + other[c][r]) / 2;
                moved = std::max(moved, std::abs(next - m[r][c]));
                m[r][c] = next;
            }
        if (moved < 1e-15) break;
    }
    return m;
}

}  // namespace

AxisMap AxisMap::of(const Profile& profile, const Geometry& geometry, bool has_orientation) {
    AxisMap map{{2, 1, 0}, {}};  // x, y, z
    if (profile.orientation == "RAS" && has_orientation) {
        // The rule of nibabel's `io_orientation`, which MONAI's `Orientation` takes: the rotation closest to the axes,
        // each of them in the order of how clear it is.
        Matrix axes = geometry.direction();
        const Triple lengths = lengths_of(axes);
        for (std::size_t r = 0; r < 3; ++r)
            for (std::size_t c = 0; c < 3; ++c) axes[r][c] *= (r < 2 ? -1 : 1) / lengths[c];  // from LPS to RAS
        Matrix rotation = closest_rotation(axes);
        const auto clearness = [&](std::size_t c) {
            return std::max({std::abs(rotation[0][c]), std::abs(rotation[1][c]), std::abs(rotation[2][c])});
        };
        std::array<std::size_t, 3> clearest{0, 1, 2};
        const Triple clear{clearness(0), clearness(1), clearness(2)};
        std::stable_sort(clearest.begin(), clearest.end(), [&](std::size_t a, std::size_t b) { return clear[a] > clear[b]; });
        for (const std::size_t axis : clearest) {
            std::size_t along = 0;
            for (std::size_t r = 1; r < 3; ++r)
                if (std::abs(rotation[r][axis]) > std::abs(rotation[along][axis])) along = r;
            map.order[along] = 2 - axis;
            map.flipped[along] = rotation[along][axis] < 0;
            rotation[along] = {};
        }
    }
    if (profile.order == "zyx") {
        std::swap(map.order[0], map.order[2]);
        std::swap(map.flipped[0], map.flipped[2]);
    }
    return map;
}

AxisMap::Strides AxisMap::strides(const Shape& shape) const {
    const std::array<std::int64_t, 3> dense{shape[1] * shape[2], shape[2], 1};
    Strides result;
    for (std::size_t n = 0; n < 3; ++n) {
        result.step[n] = flipped[n] ? -dense[order[n]] : dense[order[n]];
        if (flipped[n]) result.first += (shape[order[n]] - 1) * dense[order[n]];
    }
    return result;
}

// In tiles of the axes that are contiguous in either array, so that lines of memory are read and written as a whole.
template <class Copy>
void AxisMap::each_voxel(const Shape& network, const Shape& volume, const Copy& copy) const {
    constexpr std::int64_t kTile = 16;
    const auto [first, step] = strides(volume);
    const std::array<std::int64_t, 3> dense{network[1] * network[2], network[2], 1};
    const std::size_t across = order[0] == 2 ? 0 : 1, other = 1 - across;
    for (std::int64_t o = 0; o < network[other]; ++o)
        for (std::int64_t a0 = 0; a0 < network[across]; a0 += kTile)
            for (std::int64_t c0 = 0; c0 < network[2]; c0 += kTile) {
                const std::int64_t a1 = std::min(a0 + kTile, network[across]), c1 = std::min(c0 + kTile, network[2]);
                for (std::int64_t a = a0; a < a1; ++a) {
                    const std::int64_t in_network = o * dense[other] + a * dense[across];
                    const std::int64_t in_volume = first + o * step[other] + a * step[across];
                    for (std::int64_t c = c0; c < c1; ++c) copy(in_network + c, in_volume + c * step[2]);
                }
            }
}

Grid<float> AxisMap::to_network(const Grid<float>& array) const {
    if (is_identity()) return array;
    Grid<float> result(Shape{array.shape[order[0]], array.shape[order[1]], array.shape[order[2]]});
    float* to = result.values.data();
    const float* from = array.values.data();
    each_voxel(result.shape, array.shape, [&](std::int64_t network, std::int64_t volume) { to[network] = from[volume]; });
    return result;
}

Grid<float> AxisMap::to_volume(const Grid<float>& array) const {
    if (is_identity()) return array;
    Grid<float> result(sides_to_volume(array.shape));
    float* to = result.values.data();
    const float* from = array.values.data();
    each_voxel(array.shape, result.shape, [&](std::int64_t network, std::int64_t volume) { to[volume] = from[network]; });
    return result;
}

Shape AxisMap::sides_to_volume(const Shape& sides) const {
    Shape result{};
    for (std::size_t n = 0; n < 3; ++n) result[order[n]] = sides[n];
    return result;
}

std::array<float, 3> AxisMap::point_to_network(const std::array<float, 3>& zyx, const Shape& shape) const {
    std::array<float, 3> result{};
    for (std::size_t n = 0; n < 3; ++n) {
        const float at = zyx[order[n]];
        result[n] = flipped[n] ? static_cast<float>(shape[order[n]] - 1) - at : at;
    }
    return result;
}

}  // namespace gstk::impl
