// Boxes too thin for the network: on one slice, thinner than a voxel of its window, or of a few voxels; mirrors
// gstk.session.thin_boxes.
#pragma once

#include "click_update.hpp"
#include "window.hpp"

namespace gstk::impl {

// Whether a box is on one slice of any axis, thinner than a window's voxel, or of at most 3 voxels a side.
bool is_thin(const Box& box, const Window& window);

// The network's answer to a thin box, the only prompt, in a region that holds the box; or the ellipsoid in the box where
// the two differ.
Logits answer_thin_box(const Box& box, const Geometry& geometry, const Logits& answer);

}  // namespace gstk::impl
