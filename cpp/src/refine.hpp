// What an image itself says about a network's logits: where brightness, edges and the box know better; mirrors
// gstk.refine.
#pragma once

#include <array>
#include <optional>
#include <vector>

#include "window.hpp"

namespace gstk::impl {

// What a user said about an object, in voxel coordinates of a window.
struct Hints {
    std::vector<Triple> on, off;  // clicks on the object and beside it; may lie outside
    std::optional<Faces> box;
};

// Where in a window, and how many times finer than it, logits are refined.
struct FinePart {
    Region voxels;  // of the window
    std::int64_t finer = 1;
};
FinePart fine_part(const Geometry& geometry, const Window& window, const Hints& hints);

// Logits of a window, on the grid of a part of it.
Grid<float> finer_grid(const Grid<float>& logits, const FinePart& part);

// The looks of the background are taken from within this many half sides of the box.
constexpr float kSurroundings = 1.5f;
// Squared distances from a box's middle along one axis, in half sides.
std::vector<float> squared_radii(std::int64_t count, double low, double high);
// Calls `what` with the index of each voxel and its squared distances, along each axis, from a box's middle.
template <class What>
void each_radius(const Shape& shape, const Faces& box, What&& what) {
    std::array<std::vector<float>, 3> radii;
    for (std::size_t a = 0; a < 3; ++a) radii[a] = squared_radii(shape[a], box.low[a], box.high[a]);
    std::size_t i = 0;
    for (const float z : radii[0])
        for (const float y : radii[1])
            for (const float x : radii[2]) what(i++, z, y, x);
}

// Logits that heed the image, 0–1, and what the user said. threads: of the processor; 0 is free.
Grid<float> refine_logits(const Grid<float>& image, const Grid<float>& logits, Hints hints, int threads = 0);

}  // namespace gstk::impl
