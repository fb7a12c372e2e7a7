#include "private_files.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>

#include "drafts.hpp"

namespace gstk::impl {
namespace {

namespace fs = std::filesystem;

constexpr mode_t kOwnFolder = 0700, kOwnFile = 0600;

// Makes a folder and those above it, each the owner's alone.
void make_folders(const fs::path& folder) {
    std::error_code failed;
    if (folder.empty() || fs::exists(folder, failed)) return;
    make_folders(folder.parent_path());
    mkdir(folder.c_str(), kOwnFolder);
}

}  // namespace

bool write_private(const fs::path& file, const std::string& content) {
    make_folders(file.parent_path());
    try {
        const Draft draft(file.parent_path());
        const fs::path partial = draft.folder() / file.filename();
        const int descriptor = open(partial.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, kOwnFile);
        if (descriptor < 0) return false;
        std::size_t written = 0;
        while (written < content.size()) {
            const ssize_t step = write(descriptor, content.data() + written, content.size() - written);
            if (step <= 0) break;
            written += static_cast<std::size_t>(step);
        }
        if (close(descriptor) != 0 || written != content.size()) return false;
        fs::rename(partial, file);
        return true;
    } catch (const fs::filesystem_error&) {
        return false;
    }
}

std::string stranger(const fs::path& path) {
    struct stat status{};
    if (stat(path.c_str(), &status) != 0) return "";
    if (status.st_uid != geteuid() && status.st_uid != 0)
        return path.string() + " belongs to user " + std::to_string(status.st_uid);
    if (status.st_mode & (S_IWGRP | S_IWOTH)) return path.string() + " can be written to by others";
    return "";
}

fs::path user_cache() {
    const char *cache = std::getenv("XDG_CACHE_HOME"), *home = std::getenv("HOME");
    return cache && *cache ? fs::path(cache) : fs::path(home ? home : "/") / ".cache";
}

}  // namespace gstk::impl
