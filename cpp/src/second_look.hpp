// Points of a mask that stand for clicks, for the network to be asked again; mirrors gstk.second_look, which says why.
#pragma once

#include <cstdint>
#include <vector>

#include "refine.hpp"

namespace gstk::impl {

// Whether an object with so many clicks is asked about again.
bool second_look_is_wanted(std::size_t clicks, bool boxed);

struct OwnPoints {
    std::vector<Triple> on, off;  // voxels of the window, on the object and beside it
};
// What to tell the network besides, so that it finds a mask like this one. mask: bytes, 1 inside; hints: what was said,
// with a box; said and labels: the points, in voxel coordinates of the window, that the network was told before.
OwnPoints own_points(const Grid<std::uint8_t>& mask, const Hints& hints, const std::vector<Triple>& said,
                     const std::vector<std::int64_t>& labels);

}  // namespace gstk::impl
