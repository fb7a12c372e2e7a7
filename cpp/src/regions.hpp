// Connected components of masks and boxes around them; mirrors gstk.core.regions.
#pragma once

#include <optional>

#include "geometry.hpp"

namespace gstk::impl {

// A mask: bytes, not 0 inside.
using Mask = Grid<std::uint8_t>;

// 1 wherever the values are above 0.
Mask above_zero(const Grid<float>& values);

// The smallest box around a mask; nothing where it is empty.
std::optional<Region> bounds(const Mask& mask);

// Sets to 1 in `component` what is 26-connected in `mask` to a voxel, which the mask holds.
void add_component(const Mask& mask, const Voxel& from, Mask& component);

// Whether two boxes share a voxel.
bool intersects(const Region& first, const Region& second);

// The smallest box around both; empty where both are, or are null.
Region union_of(const Region* first, const Region* second);

}  // namespace gstk::impl
