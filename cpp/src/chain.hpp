// A chain of windows along an object that one window shows too coarsely; mirrors gstk.chain.
#pragma once

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "prompts.hpp"
#include "window.hpp"

namespace gstk::impl {

// A part of an object: which of the cells that it was divided from, rising, and the window around them.
struct Part {
    std::vector<std::size_t> cells;
    Window window;
};

// A point that stands for a click: a voxel inside the coarse mask, and how far around it all was inside.
struct Seed {
    Triple zyx;
    double reach_mm;
};

// A mask is thin whose voxels are all so near to its border, counted in voxels of the one window along the axes. What is
// thicker is shown well enough there.
constexpr std::int64_t kThin = 3;

// A window of a chain and what the network made of it.
struct Link {
    Window window;
    std::vector<Seed> seeds;                    // where the coarse mask was deepest in it
    std::shared_ptr<const Grid<float>> logits;  // on the window's grid; null before it was looked at

    // What the network is told, seeds before clicks. A click beside the object within a seed's reach takes it back.
    NetworkPoints points(const ObjectPrompts& prompts, const Geometry& geometry) const;
    // Of its answer at a voxel of a volume of `shape`, 0–1.
    double weight(const Voxel& zyx, const Shape& shape) const;
};

// Answers for an object in several windows.
struct Chain {
    std::shared_ptr<const Grid<float>> coarse;  // on the grid of the object's window, of the whole
    std::vector<Link> links;                    // those that were looked at
    Window grid;                                // what they are blended on

    std::size_t size_bytes() const;
    // Of the links' answers at a voxel of a volume of `shape`, 0–1; the rest is the coarse one's.
    double weight(const Voxel& zyx, const Shape& shape) const;
    // Logits on the grid. `window`: the object's, that `coarse` is on.
    Grid<float> blended(const Window& window, const Shape& shape) const;
};

// The parts that an object is looked at in, or none where no chain is much finer than one window, whose voxels are of
// `side_mm`. `cells`: small boxes that fill the object.
std::vector<Part> parts_of(const Geometry& geometry, const std::vector<Faces>& cells, const Framing& framing,
                           double side_mm);

// Cells that fill a box.
std::vector<Faces> solid(const Faces& box);

// What to look at, in order, after a coarse look; nothing where that was fine enough or saw nothing.
std::vector<Link> links_of(const Geometry& geometry, const Window& window, const Grid<float>& logits,
                           const ObjectPrompts& prompts, const Framing& framing);

// What the answers of a chain are blended on: a part of the object's window, divided up to the volume's spacing.
Window grid_of(const Geometry& geometry, const Window& window, const std::vector<Link>& links);

// Answers of overlapping windows as one, without seams; where they are constant, so is it.
//
// A window's answer fades out towards its faces, but not at the ends of the volume of `shape`; weights are then made to
// sum to 1, and what the windows leave of it is the coarse answer's, which is on `grid` already.
Grid<float> blend(const Window& grid, const Shape& shape, Grid<float> coarse,
                  const std::vector<std::pair<Window, std::shared_ptr<const Grid<float>>>>& answers);

}  // namespace gstk::impl
