// NIfTI-1 and NIfTI-2 in one file, .nii or .nii.gz, of either byte order.
#pragma once

#include <string>

#include "volume.hpp"

namespace gstk::impl {

// What a header says of the voxels that follow it.
struct NiftiLayout {
    Shape shape;
    Triple spacing_mm;
    gstk_dtype dtype;
    bool swapped;
    std::int64_t offset_bytes;
    double slope, intercept;  // intensity = slope · stored + intercept
};

// Throws GSTK_ERROR_CASE where the bytes are no header of a three-dimensional image of real numbers.
NiftiLayout parse_nifti(const std::string& header, const std::string& where);

Volume read_nifti(const std::string& path);

// Writes a mask uint16 (z,y,x), with the header of the file that the volume was read from where there is one, else with
// its spacing and no position in the patient. Compressed where the name ends in .gz.
void write_nifti_mask(const std::string& path, const Volume& volume, const std::uint16_t* mask, bool compress);

}  // namespace gstk::impl
