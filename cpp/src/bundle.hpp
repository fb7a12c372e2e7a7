// The folder that `gstk export` writes; every file is compared with the manifest before it is used, and no path in a
// manifest leaves the folder. Mirrors gstk.core.bundle.
#pragma once

#include <filesystem>
#include <vector>

#include "manifest.hpp"

namespace gstk::impl {

struct Bundle {
    std::filesystem::path path;  // resolved
    Manifest manifest;

    // A folder, or the name of a bundle that lies in a folder of `bundle_folders`; a folder goes before a name.
    // Throws GSTK_ERROR_BUNDLE: not a bundle, of an unknown schema, incomplete, altered, or naming a path outside.
    static Bundle open(const std::filesystem::path& folder);

    // Path of a graph, `encoder` or `prompt_decoder`; throws GSTK_ERROR_BUNDLE where there is none of that precision.
    std::filesystem::path graph(const std::string& kind, const std::string& precision) const;

    // One hash of all files that the manifest vouches for: what is kept for a bundle is kept under it.
    std::string sha256() const;
};

// Where bundles are looked for by name: the folders that the variable GSTK_BUNDLES of the environment names, separated by
// colons; share/gstk/bundles of the installation that this library is in; the folder in the source tree that it was
// built from.
std::vector<std::filesystem::path> bundle_folders();

// Hexadecimal SHA-256 of a file, and of bytes.
std::string sha256(const std::filesystem::path& file);
std::string sha256_of(const std::string& bytes);

}  // namespace gstk::impl
