#include "geometry.hpp"

#include "error.hpp"

namespace gstk::impl {
namespace {

constexpr std::int64_t kLargestSide = std::int64_t{1} << 31;

template <class Values>
std::string joined(const Values& values) {
    std::ostringstream out;
    out << '(' << values[0] << ", " << values[1] << ", " << values[2] << ')';
    return out.str();
}

}  // namespace

std::string text(const Triple& values) {
    return joined(values);
}
std::string text(const Voxel& values) {
    return joined(values);
}

Geometry::Geometry(const Shape& shape, const Triple& spacing_mm) : shape_(shape), spacing_mm_(spacing_mm) {
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
