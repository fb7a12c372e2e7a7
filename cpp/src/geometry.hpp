// Shapes, regions and spacings; mirrors gstk.core.geometry. Every triple is (z, y, x).
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace gstk::impl {

using Triple = std::array<double, 3>;
using Voxel = std::array<std::int64_t, 3>;
using Shape = Voxel;

std::string text(const Triple& values);
std::string text(const Voxel& values);

inline std::int64_t count_of(const Shape& shape) {
    return shape[0] * shape[1] * shape[2];
}

// Voxels from start, inside, to stop, outside.
struct Region {
    Voxel start{};
    Voxel stop{};

    Shape shape() const { return {stop[0] - start[0], stop[1] - start[1], stop[2] - start[2]}; }
    bool operator==(const Region& other) const { return start == other.start && stop == other.stop; }
};

// A dense array, x fastest.
template <class T>
struct Grid {
    Shape shape{};
    std::vector<T> values;

    Grid() = default;
    explicit Grid(const Shape& sides, T value = T()) : shape(sides), values(count_of(sides), value) {}

    std::size_t index(std::int64_t z, std::int64_t y, std::int64_t x) const {
        return static_cast<std::size_t>((z * shape[1] + y) * shape[2] + x);
    }
    std::size_t index(const Voxel& v) const { return index(v[0], v[1], v[2]); }
    T* line(std::int64_t z, std::int64_t y) { return values.data() + index(z, y, 0); }
    const T* line(std::int64_t z, std::int64_t y) const { return values.data() + index(z, y, 0); }
    bool holds(const Voxel& v) const {
        for (int a = 0; a < 3; ++a)
            if (v[a] < 0 || v[a] >= shape[a]) return false;
        return true;
    }
};

// The values of a region.
template <class T>
Grid<T> part_of(const Grid<T>& grid, const Region& region) {
    Grid<T> part(region.shape());
    for (std::int64_t z = 0; z < part.shape[0]; ++z)
        for (std::int64_t y = 0; y < part.shape[1]; ++y) {
            const T* from = grid.line(z + region.start[0], y + region.start[1]) + region.start[2];
            std::copy(from, from + part.shape[2], part.line(z, y));
        }
    return part;
}

// A 3x3 matrix, row by row.
using Matrix = std::array<Triple, 3>;
constexpr Matrix kIdentity{Triple{1, 0, 0}, Triple{0, 1, 0}, Triple{0, 0, 1}};

double determinant(const Matrix& m);

// Lengths of the columns.
Triple lengths_of(const Matrix& axes);

// The matrix with columns of length 1; those that have it to the last bits stay as they are.
Matrix with_unit_axes(const Matrix& axes);

// Shape, spacing, origin and direction of a volume; immutable once made.
class Geometry {
  public:
    // origin_mm: (x, y, z) in LPS of the first voxel's centre. direction: its columns are the LPS directions of the
    // x, y and z axes; of length 1. Throws GSTK_ERROR_GEOMETRY where a side is below 1, a spacing is not finite and above
    // 0, or an origin or direction is not finite or has no inverse.
    Geometry(const Shape& shape, const Triple& spacing_mm, const Triple& origin_mm = {},
             const Matrix& direction = kIdentity);

    const Shape& shape() const { return shape_; }
    const Triple& spacing_mm() const { return spacing_mm_; }
    const Triple& origin_mm() const { return origin_mm_; }
    const Matrix& direction() const { return direction_; }

    // Rounds a continuous voxel index, halves up; nothing where that is outside the volume.
    std::optional<Voxel> nearest_voxel(const Triple& zyx) const;
    bool contains(const Voxel& zyx) const;

  private:
    Shape shape_;
    Triple spacing_mm_;
    Triple origin_mm_;
    Matrix direction_;
};

}  // namespace gstk::impl
