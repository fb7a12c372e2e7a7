// Files of which a reader never sees half; mirrors gstk.core.files.
#pragma once

#include <functional>
#include <string>

namespace gstk::impl {

// Calls `write` with a name beside `path`; what it wrote there becomes `path` when it is on the disk (fsync), so that what
// a full disk, a quota or a network drive says only when a file is closed counts too. Throws GSTK_ERROR_OUTPUT, or what
// `write` throws; then nothing is left behind, and an older `path` stays as it was.
void write_whole(const std::string& path, const std::function<void(const std::string& partial)>& write);

}  // namespace gstk::impl
