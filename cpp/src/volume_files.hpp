// Volumes and masks in files, by the file's name: .npz, .nii or .nii.gz.
#pragma once

#include <string>

#include "volume.hpp"

namespace gstk::impl {

Volume read_volume(const std::string& path);

// Writes whole or not at all; throws GSTK_ERROR_OUTPUT.
void write_mask(const std::string& path, const Volume& volume, const std::uint16_t* mask);

}  // namespace gstk::impl
