// Which part of a volume the network sees, at which resolution, and the way back; mirrors gstk.core.window.
//
// Voxel coordinates have their integers at voxel centres; a face coordinate is half a voxel further, so that a volume
// of n voxels lies between the faces 0 and n.
#pragma once

#include <functional>
#include <optional>

#include "resampling.hpp"

namespace gstk::impl {

struct Window {
    Triple start;  // first face, in voxels of the volume; negative where it reaches outside
    Triple step;   // voxels of the volume per voxel of the window
    Shape shape;   // its voxels, each a multiple of the network's

    Triple stop() const;
    double side_mm(const Geometry& geometry) const;              // of a voxel, the mean of its axes
    std::array<float, 3> to_window(const Triple& zyx) const;  // may lie outside
    bool holds(const Triple& zyx) const;

    // Its voxels of `voxels`, each divided into `finer` along each axis.
    Window part(const Region& voxels, std::int64_t finer) const;

    // The part that holds all values above 0 and these voxels of the volume, which lie inside the window, with a few
    // voxels around them. What `back` makes of it is what it makes of the whole, above 0.
    Region extent_above_zero(const Grid<float>& values, const std::vector<Triple>& points) const;

    // The volume on the window's grid, normalised to 0–1; 0 outside of the volume.
    Grid<float> sample(const Volume& volume, const IntensityRange& range) const;
    // The voxels of a volume whose centres lie in the window.
    Region inside(const Shape& volume_shape) const;
    // Values on the window's grid, at the volume's voxels `inside`.
    Grid<float> back(Grid<float> values, const Shape& volume_shape) const;
    // As `back`, but each voxel takes the nearest value: coarse, and ten times quicker.
    Grid<float> nearest(const Grid<float>& values, const Shape& volume_shape) const;

    bool operator==(const Window& other) const {
        return start == other.start && step == other.step && shape == other.shape;
    }
};

// How windows are chosen.
struct WindowPolicy {
    std::int64_t max_voxels;  // most voxels of a window
    std::int64_t multiple;    // that sides are multiples of
    std::int64_t min_side;    // least side, voxels
    double margin = 0.4;      // context on each side of the object, over its longest side
    double min_step = 0.5;    // least step, voxels of the volume's finest axis per voxel of the window
    double min_mm = 0;        // least side of a window's voxel
    // The window of the network's training around a voxel of the volume; null where it has none.
    std::function<std::optional<Window>(const Triple&)> training_window = nullptr;
    bool adapts = true;  // whether wider and narrower windows follow the first where the mask asks for them
};

struct Faces {
    Triple low;
    Triple high;
};

// The window around an object between two faces: isotropic in millimetres, inside the volume where it fits.
Window frame(const Geometry& geometry, const Faces& object, const WindowPolicy& policy);

}  // namespace gstk::impl
