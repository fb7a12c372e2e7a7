// Where the voxels of a volume lie on a training grid whose axes are not quite the volume's; mirrors gstk.core.grid_places.
//
// Axes in files are rounded, NIfTI's to float32, so that they are at right angles but for a millionth. MONAI's `Spacing`
// brings the grid's axes to right angles. Where steps are such that many voxels of the volume lie halfway between two of
// the grid, as those of 3 mm do between those of 1.5 mm, that millionth decides which one is the nearest.
#pragma once

#include "geometry.hpp"

namespace gstk::impl {

class GridPlaces {
  public:
    GridPlaces() = default;
    // The grid that MONAI's `zoom_affine` and `compute_shape_offset` lay over a volume. step: voxels of the volume per voxel
    // of the grid.
    GridPlaces(const Geometry& geometry, const Triple& step);

    const Shape& sides() const { return sides_; }
    // Whether the grid lies around the volume's middle; else it begins at the volume's first voxel.
    bool is_centred() const { return is_centred_; }

    // The nearest voxel of the grid to one of the volume, along one of the grid's axes; later axes of `voxel` do not count.
    std::int64_t nearest(int axis, const Voxel& voxel) const;

    // The least and the largest of the nearest voxels of each plane along an axis of the volume.
    struct Ends {
        std::vector<std::int64_t> least, largest;
    };
    Ends nearest_ends(int axis) const;

  private:
    std::int64_t rounded(int axis, double of_volume) const;

    Shape shape_{};  // of the volume
    Shape sides_{};
    Triple step_{1, 1, 1};
    // What a voxel along each of the volume's axes (columns) is along the grid's (rows), in voxels of the volume; near the
    // identity, and 0 above the diagonal.
    Matrix upright_{};
    Triple first_{};  // place of the volume's first voxel
    bool is_centred_ = false;
};

}  // namespace gstk::impl
