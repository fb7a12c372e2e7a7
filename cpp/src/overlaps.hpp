// Whose a voxel is that several objects claim; mirrors gstk.overlaps.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "masks.hpp"

namespace gstk::impl {

// An object's mask, and where it was said to be: the voxels that were clicked on it, and the middle of its box.
struct Claim {
    std::shared_ptr<const Logits> mask;
    std::vector<Voxel> clicks;
    std::optional<Voxel> middle;
};

// Object ids, 0 elsewhere.
//
// Where objects overlap, the logits decide, and how large the masks are. A click on an object that lies in another's
// mask shows that this is wrong there: what both claim around it and is nearer to it than to where the other was said
// to be goes to the clicked one. So a voxel that was clicked as one object's is that object's.
Grid<std::uint16_t> label_map(const Geometry& geometry, const std::map<std::int64_t, Claim>& claims);

}  // namespace gstk::impl
