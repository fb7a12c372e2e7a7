// Corrects a network's logits by the image: by brightness, edges, the box and the clicks. An optional pure function, for
// networks that need it; mirrors gstk.session.extras.image_refiner.
#pragma once

#include <optional>
#include <vector>

#include "window.hpp"

namespace gstk::impl {

// Prompts on an object in voxel coordinates of a window; they may lie outside of it.
struct LocalPrompts {
    std::vector<Triple> foreground, background;  // clicks on the object and beside it
    std::optional<Faces> box;
};

// Where in a window, and how many times finer than it, logits are refined.
struct FinePart {
    Region voxels;  // of the window
    std::int64_t finer = 1;
};
FinePart fine_part(const Geometry& geometry, const Window& window, const LocalPrompts& prompts);

// Logits of a window, on the grid of a part of it.
Grid<float> finer_grid(const Grid<float>& logits, const FinePart& part);

// Corrected logits. image: 0–1, on the grid of the logits. threads: of the processor; 0 leaves the number free.
Grid<float> refine_logits(const Grid<float>& image, const Grid<float>& logits, LocalPrompts prompts, int threads = 0);

}  // namespace gstk::impl
