// Where a NIfTI header puts its image in the patient, by its sform and qform; mirrors gstk.cases.nifti.
#pragma once

#include <string>
#include <vector>

#include "geometry.hpp"
#include "nifti_header.hpp"

namespace gstk::impl {

// The place, LPS mm: by the sform where its code is above 0, else by the qform, else by the sides of the voxels alone.
// What is odd goes into `notes`. Throws GSTK_ERROR_CASE where there is no place, or axes are not at right angles.
Geometry geometry_of(const NiftiHeader& header, const Shape& shape, const std::string& name,
                     std::vector<std::string>& notes);

// A header for a volume that came from elsewhere: mm, scanner coordinates.
NiftiHeader header_of(const Geometry& geometry);

}  // namespace gstk::impl
