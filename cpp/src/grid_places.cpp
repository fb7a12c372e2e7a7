#include "grid_places.hpp"

namespace gstk::impl {
namespace {

// How far before the volume's first voxel, in voxels of the grid, MONAI lets others lie to begin the grid there.
constexpr double kCorner = 1e-8;
// How far voxels are off, in voxels of the volume, where axes are at right angles but for the arithmetic.
constexpr double kRounding = 1e-10;

// What a voxel along each axis of the volume (columns) is along axes at right angles (rows), in voxels; (z,y,x). MONAI's
// `zoom_affine` takes the Cholesky factor of the products of the axes. The same as Python to the bit.
Matrix upright_of(const Geometry& geometry) {
    const Matrix& direction = geometry.direction();  // columns: x, y, z
    const Triple& spacing = geometry.spacing_mm();
    const auto own = [&](int axis, int row) { return direction[row][axis] * spacing[2 - axis]; };
    Matrix factor{};
    for (int i = 0; i < 3; ++i)
        for (int j = 0; j <= i; ++j) {
            double value = own(i, 0) * own(j, 0) + own(i, 1) * own(j, 1) + own(i, 2) * own(j, 2);
            for (int k = 0; k < j; ++k) value -= factor[i][k] * factor[j][k];
            factor[i][j] = i == j ? std::sqrt(value) : value / factor[j][j];
        }
    Matrix upright{};
    double off = 0;
    for (int a = 0; a < 3; ++a)
        for (int b = 0; b < 3; ++b) {
            upright[a][b] = factor[2 - b][2 - a] / spacing[a];
            off = std::max(off, std::abs(upright[a][b] - (a == b ? 1 : 0)) * static_cast<double>(geometry.shape()[b]));
        }
    return off > kRounding ? upright : kIdentity;
}

struct Reach {
    double least = 0, largest = 0;
};

// What the volume's other axes add at least and at most to a place along one, in voxels of the volume.
Reach reach_of(const Triple& row, const Shape& shape, int axis) {
    Reach reach;
    for (int other = 0; other < axis; ++other) {
        const double end = row[other] * static_cast<double>(shape[other] - 1);
        reach.least += std::min(0.0, end);
        reach.largest += std::max(0.0, end);
    }
    return reach;
}

}  // namespace

GridPlaces::GridPlaces(const Geometry& geometry, const Triple& step)
    : shape_(geometry.shape()), step_(step), upright_(upright_of(geometry)) {
    for (int a = 0; a < 3; ++a) {
        const Reach reach = reach_of(upright_[a], shape_, a);
        const double along = upright_[a][a] * static_cast<double>(shape_[a] - 1) + reach.largest - reach.least;
        sides_[a] = static_cast<std::int64_t>(std::nearbyint(along / step_[a] + 1));
        is_centred_ = is_centred_ || reach.least / step_[a] < -kCorner;
    }
    if (!is_centred_) return;
    for (int a = 0; a < 3; ++a) {
        double middle = 0;
        for (int b = 0; b < 3; ++b) middle += upright_[a][b] * static_cast<double>(shape_[b]) / 2;
        first_[a] = static_cast<double>(sides_[a]) / 2 - middle / step_[a];
    }
}

std::int64_t GridPlaces::nearest(int axis, const Voxel& voxel) const {
    double of_volume = 0;
    for (int other = 0; other <= axis; ++other) of_volume += upright_[axis][other] * static_cast<double>(voxel[other]);
    return rounded(axis, of_volume);
}

GridPlaces::Ends GridPlaces::nearest_ends(int axis) const {
    const Reach reach = reach_of(upright_[axis], shape_, axis);
    Ends ends;
    for (std::int64_t i = 0; i < shape_[axis]; ++i) {
        const double along = upright_[axis][axis] * static_cast<double>(i);
        ends.least.push_back(rounded(axis, reach.least + along));
        ends.largest.push_back(rounded(axis, reach.largest + along));
    }
    return ends;
}

std::int64_t GridPlaces::rounded(int axis, double of_volume) const {
    const double place = of_volume / step_[axis] + first_[axis];
    return std::clamp<std::int64_t>(static_cast<std::int64_t>(std::nearbyint(place)), 0, sides_[axis] - 1);
}

}  // namespace gstk::impl
