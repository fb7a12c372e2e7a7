// The grid that a network was trained on, laid over a volume: windows on it hold what the training saw; mirrors
// gstk.core.training_grid.
//
// As MONAI's `Spacing` lays it: its axes are the volume's, its first voxel is the volume's or, on oblique axes with rounded
// numbers, as far from it as MONAI shifts it, and values between voxels are linear, without a filter. The part around the
// foreground is what counts (`CropForeground`); beyond it there is padding.
#pragma once

#include <optional>

#include "axis_map.hpp"
#include "grid_places.hpp"
#include "window.hpp"

namespace gstk::impl {

class TrainingGrid {
  public:
    // The grid of a profile over a volume, cropped as the profile says; nothing where it has no resolution. Throws
    // GSTK_ERROR_PROFILE where the volume's axes are not at right angles.
    static std::optional<TrainingGrid> of(const Profile& profile, const Volume& volume);

    const Triple& step() const { return step_; }
    // First and last of its voxels, the last outside, that count.
    const Region& region() const { return region_; }

    // The window of the grid's voxels from `first` on, which may lie outside of what counts.
    Window window(const Voxel& first, const Shape& shape) const;
    // Whether a window's voxels are the grid's.
    bool holds(const Window& window) const;
    // The window around a voxel of the volume, where MONAI's `point_based_window_inferer` places it. sides: (z,y,x); axes:
    // the network's, along which it is placed, since the middle of an even side is not symmetric.
    Window window_around(const Triple& point, const Shape& sides, const AxisMap& axes) const;

    // A window that the grid holds, normalised and clipped; 0 beyond what counts.
    Grid<float> sample(const Volume& volume, const IntensityRange& range, const Window& window) const;
    // Percentiles of all voxels that count.
    IntensityRange percentiles(const Volume& volume, const std::pair<double, double>& percentiles) const;

    struct Nearest {
        Region region;
        Grid<float> values;
    };
    // Values of a window on the volume's voxels, each from the nearest voxel of the grid (MONAI's `Invertd`); of a box around
    // all voxels whose nearest counts and lies in the window. Where axes are not quite at right angles, the box's sides may
    // hold other voxels; these get 0.
    Nearest nearest(const Window& window, const Grid<float>& values) const;

  private:
    using Indices = std::array<std::vector<std::int64_t>, 3>;

    Voxel first_of(const Window& window) const;
    Indices indices(const Region& region) const;
    Region cropped(const Volume& volume, std::int64_t margin) const;
    bool has_foreground(const Volume& volume, int axis, std::int64_t index) const;
    Grid<float> interpolate(const Volume& volume, const Indices& indices) const;

    Triple step_{1, 1, 1};
    GridPlaces places_;  // where the volume's voxels lie on the grid, to the last millionth; for the way back
    Triple origin_{};  // voxel of the volume where the grid's first voxel lies
    Shape volume_shape_{};
    Region region_;
};

}  // namespace gstk::impl
