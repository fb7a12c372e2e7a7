// What an image itself says about a network's logits: where brightness, edges and the box know better; mirrors
// gstk.refine.
#pragma once

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

// Logits that heed the image, 0–1, and what the user said. threads: of the processor; 0 is free.
Grid<float> refine_logits(const Grid<float>& image, const Grid<float>& logits, Hints hints, int threads = 0);

}  // namespace gstk::impl
