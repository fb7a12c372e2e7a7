#include "whole_file.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <filesystem>
#include <system_error>

#include "error.hpp"

namespace gstk::impl {
namespace {

namespace fs = std::filesystem;

// A name beside `path` that no other thread or process uses, with the same suffix.
fs::path scratch_name(const fs::path& path) {
    static std::atomic<unsigned> serial{0};
    const auto name =
        ".gstk-" + std::to_string(getpid()) + "-" + std::to_string(++serial) + "-" + path.filename().string();
    return path.parent_path() / name;
}

// Waits until a file or folder is on the disk, where its file system can say so.
std::error_code sync(const fs::path& path, int flags) {
    const int descriptor = open(path.c_str(), flags | O_CLOEXEC);
    if (descriptor < 0) return {errno, std::generic_category()};
    const int failed = fsync(descriptor) == 0 || errno == EINVAL || errno == ENOTSUP ? 0 : errno;
    close(descriptor);
    return {failed, std::generic_category()};
}

}  // namespace

void write_whole(const std::string& path, const std::function<void(const std::string& partial)>& write) {
    const fs::path partial = scratch_name(path);
    std::error_code failed, ignored;
    try {
        write(partial.string());
        failed = sync(partial, O_RDWR);
        if (!failed) fs::rename(partial, path, failed);
    } catch (...) {
        fs::remove(partial, ignored);
        throw;
    }
    if (failed) {
        fs::remove(partial, ignored);
        throw error(GSTK_ERROR_OUTPUT, "cannot write ", printable(path), ": ", failed.message(),
                    "; check that its folder can be written to, and that its disk has room");
    }
    const fs::path folder = partial.parent_path();
    failed = sync(folder.empty() ? "." : folder, O_RDONLY);
    if (failed)
        throw error(GSTK_ERROR_OUTPUT, "cannot make sure that ", printable(path), " is on the disk: ", failed.message());
}

}  // namespace gstk::impl
