#include "geometry.hpp"

#include "error.hpp"

namespace gstk::impl {
namespace {

constexpr std::int64_t kLargestSide = std::int64_t{1} << 31;

}  // namespace

std::string text(const Triple& values) {
    return joined('(', values[0], ", ", values[1], ", ", values[2], ')');
}
std::string text(const Voxel& values) {
    return joined('(', values[0], ", ", values[1], ", ", values[2], ')');
}

double determinant(const Matrix& m) {
    return m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1]) - m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0]) +
           m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0]);
}

Triple lengths_of(const Matrix& axes) {
    Triple lengths{};
    for (int c = 0; c < 3; ++c)
        lengths[c] = std::sqrt(axes[0][c] * axes[0][c] + axes[1][c] * axes[1][c] + axes[2][c] * axes[2][c]);
    return lengths;
}

Matrix with_unit_axes(const Matrix& axes) {
    const Triple lengths = lengths_of(axes);
    Matrix result = axes;
    for (auto& row : result)
        for (int c = 0; c < 3; ++c)
            if (std::abs(lengths[c] - 1) > 1e-12) row[c] /= lengths[c];
    return result;
}

Geometry::Geometry(const Shape& shape, const Triple& spacing_mm, const Triple& origin_mm, const Matrix& direction)
    : shape_(shape), spacing_mm_(spacing_mm), origin_mm_(origin_mm), direction_(direction) {
    // The product is bounded too, so that counting voxels and their bytes cannot overflow.
    double voxels = 1;
    for (const auto side : shape) {
        if (side < 1 || side >= kLargestSide)
            throw error(GSTK_ERROR_GEOMETRY, "got the shape ", text(shape),
                        ", expected three whole numbers (z, y, x) of at least 1");
        voxels *= static_cast<double>(side);
    }
    if (voxels > 0x1p58)
        throw error(GSTK_ERROR_GEOMETRY, "got the shape ", text(shape), ", expected a volume in memory");
    for (const auto s : spacing_mm)
        if (!std::isfinite(s) || s <= 0)
            throw error(GSTK_ERROR_GEOMETRY, "got the spacing ", text(spacing_mm),
                        ", expected three numbers of mm (z, y, x) above 0");
    for (const auto position : origin_mm)
        if (!std::isfinite(position))
            throw error(GSTK_ERROR_GEOMETRY, "got the origin ", text(origin_mm), ", expected three finite numbers of mm");
    const double volume = determinant(direction);
    // Written so that NaN fails it.
    if (!(std::isfinite(volume) && std::abs(volume) >= 1e-6))
        throw error(GSTK_ERROR_GEOMETRY, "got the direction ", text(direction[0]), text(direction[1]), text(direction[2]),
                    ", expected a 3x3 matrix that can be inverted");
}

std::optional<Voxel> Geometry::nearest_voxel(const Triple& zyx) const {
    Voxel voxel{};
    for (int a = 0; a < 3; ++a) {
        const double rounded = std::floor(zyx[a] + 0.5);
        // Written so that NaN fails it.
        if (!(rounded >= 0 && rounded < static_cast<double>(shape_[a]))) return std::nullopt;
        voxel[a] = static_cast<std::int64_t>(rounded);
    }
    return voxel;
}

bool Geometry::contains(const Voxel& zyx) const {
    for (int a = 0; a < 3; ++a)
        if (zyx[a] < 0 || zyx[a] >= shape_[a]) return false;
    return true;
}

}  // namespace gstk::impl
