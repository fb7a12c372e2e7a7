#include "whole_file.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <system_error>

#include "drafts.hpp"
#include "error.hpp"

namespace gstk::impl {
namespace {

namespace fs = std::filesystem;

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
    const fs::path target = path, folder = target.parent_path();
    std::error_code failed;
    try {
        const Draft draft(folder);
        const fs::path partial = draft.folder() / target.filename();
        try {
            write(partial.string());
        } catch (const Error& told) {  // which names a file that nobody asked for
            std::string text = told.what();
            const auto at = text.find(partial.string());
            if (at != std::string::npos) text.replace(at, partial.string().size(), printable(path));
            throw error(told.code(), text);
        }
        failed = sync(partial, O_RDWR);
        if (!failed) fs::rename(partial, target, failed);
    } catch (const fs::filesystem_error& told) {
        failed = told.code();
    }
    if (failed)
        throw error(GSTK_ERROR_OUTPUT, "cannot write ", printable(path), ": ", failed.message(),
                    "; check that its folder can be written to, and that its disk has room");
    failed = sync(folder.empty() ? "." : folder, O_RDONLY);
    if (failed)
        throw error(GSTK_ERROR_OUTPUT, "cannot make sure that ", printable(path), " is on the disk: ", failed.message());
}

}  // namespace gstk::impl
