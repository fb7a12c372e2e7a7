// Files that only their owner may change: compiled graphs and plans are programs, and what is in them is run. Mirrors
// gstk.engines.private_files.
#pragma once

#include <filesystem>
#include <string>

namespace gstk::impl {

// Writes a file whole or not at all, readable by its owner alone; its folder is made where it is missing. Returns
// whether it could; where not, an older file stays as it was.
bool write_private(const std::filesystem::path& file, const std::string& content);

// Why somebody else could have written a file or folder; empty where only this user or the administrator can, or
// nothing is there.
std::string stranger(const std::filesystem::path& path);

// The user's folder for what can be made again.
std::filesystem::path user_cache();

}  // namespace gstk::impl
