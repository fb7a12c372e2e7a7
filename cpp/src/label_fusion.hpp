// Resolves overlapping object masks into one label map; mirrors gstk.session.label_fusion.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "click_update.hpp"

namespace gstk::impl {

// An object's mask and the prompts that say where it is.
struct ObjectLogits {
    std::shared_ptr<const Logits> mask;
    std::vector<Voxel> clicks;        // foreground clicks
    std::optional<Voxel> box_centre;  // nothing without a box
};

// Object ids, 0 elsewhere.
//
// Where objects overlap, a voxel goes to the one of the higher logit, less a handicap for large masks. A click on one
// object that lies in the mask of another shows that this mask is wrong there: the overlap around the click goes to the
// clicked object where it is nearer to the click than to the other's prompts. So a clicked voxel has its object's label.
Grid<std::uint16_t> label_map(const Geometry& geometry, const std::map<std::int64_t, ObjectLogits>& objects);

}  // namespace gstk::impl
