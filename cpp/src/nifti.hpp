// NIfTI-1 and NIfTI-2 in one file, .nii or .nii.gz, of either byte order; mirrors gstk.cases.nifti.
#pragma once

#include <string>

#include "nifti_header.hpp"
#include "volume.hpp"

namespace gstk::impl {

// What a header says of the voxels that follow it.
struct NiftiLayout {
    Shape shape;
    gstk_dtype dtype;
    std::int64_t offset_bytes;
    double slope, intercept;  // intensity = slope · stored + intercept
};

// Throws GSTK_ERROR_CASE where the header is not of a three-dimensional image of real numbers.
NiftiLayout layout_of(const NiftiHeader& header, const std::string& where);

// The voxels, slope and intercept applied; NaN and infinity become 0, which its notes say.
Volume read_nifti(const std::string& path);

// Writes a mask uint16 (z,y,x), as uint8 where its ids fit, with the header of the file that the volume was read from
// where there is one, else with the volume's place. Compressed where `compress`.
void write_nifti_mask(const std::string& path, const Volume& volume, const std::uint16_t* mask, bool compress);

}  // namespace gstk::impl
