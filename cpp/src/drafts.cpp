#include "drafts.hpp"

#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <ctime>
#include <fstream>
#include <iterator>
#include <locale>
#include <mutex>
#include <optional>
#include <random>
#include <set>
#include <sstream>
#include <string>
#include <system_error>
#include <utility>

#include "bundle.hpp"

namespace gstk::impl {
namespace {

namespace fs = std::filesystem;

constexpr const char* kReplaced = "replaced";  // folder of what stood under a final name, while something else goes there
constexpr std::time_t kForgottenS = 7 * 24 * 3600;

std::string content_of(const char* path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

// Digits that are the same for processes that see each other's ids.
const std::string& host_token() {
    static const std::string token = [] {
        utsname names{};
        std::string parts = uname(&names) == 0 ? names.nodename : "";
        const std::string boot = content_of("/proc/sys/kernel/random/boot_id");
        if (!boot.empty()) parts += "\n" + boot;
        std::error_code failed;
        const fs::path space = fs::read_symlink("/proc/self/ns/pid", failed);
        if (!boot.empty() && !failed) parts += "\n" + space.string();
        return sha256_of(parts).substr(0, 8);
    }();
    return token;
}

// When a process was started, in clock ticks after boot; 0 where none of this id runs, or the system does not tell.
unsigned long long process_start(const std::string& pid) {
    const std::string told = content_of(("/proc/" + pid + "/stat").c_str());
    // proc(5): field 3 is the state and 22 the start, after a name that may hold spaces.
    std::istringstream words(told.substr(std::min(told.rfind(')') + 1, told.size())));
    words.imbue(std::locale::classic());
    std::string state, skipped;
    words >> state;
    if (state.empty() || state == "Z" || state == "X") return 0;
    for (int field = 4; field < 22; ++field) words >> skipped;
    unsigned long long start = 0;
    words >> start;
    return start;
}

std::time_t last_change(const fs::path& folder) {
    std::time_t latest = 0;
    const auto look = [&](const fs::path& path) {
        struct stat status{};
        if (lstat(path.c_str(), &status) == 0) latest = std::max(latest, status.st_mtime);
    };
    look(folder);
    for (const auto& entry : fs::recursive_directory_iterator(folder)) look(entry.path());
    return latest;
}

// Who made a draft, by its name: [.]gstk-HOST-PID-START-RANDOM.
struct Owner {
    std::string host, pid, start;
};

std::optional<Owner> owner_of(const std::string& name) {
    std::istringstream words(name.substr(!name.empty() && name[0] == '.'));
    std::string program, random;
    Owner owner;
    for (std::string* word : {&program, &owner.host, &owner.pid, &owner.start, &random}) std::getline(words, *word, '-');
    const auto is_of = [](const std::string& word, const char* digits, std::size_t least, std::size_t most) {
        return word.size() >= least && word.size() <= most && word.find_first_not_of(digits) == std::string::npos;
    };
    const char *decimal = "0123456789", *hexadecimal = "0123456789abcdef";
    if (!words.eof() || program != "gstk" || !is_of(owner.host, hexadecimal, 8, 8) || !is_of(owner.pid, decimal, 1, 19) ||
        !is_of(owner.start, decimal, 1, 19) || !is_of(random, hexadecimal, 12, 12))
        return std::nullopt;
    return owner;
}

// Whether a folder of this name belongs to a process that has ended; what another machine made, to one that is forgotten.
bool is_left(const fs::path& folder, const Owner& owner) {
    struct stat status{};
    if (lstat(folder.c_str(), &status) != 0 || !S_ISDIR(status.st_mode) || status.st_uid != geteuid()) return false;
    if (owner.host == host_token() && owner.start != "0") return std::to_string(process_start(owner.pid)) != owner.start;
    return std::time(nullptr) - last_change(folder) > kForgottenS;
}

// Gives back its name to what was moved aside for a successor that never came.
void put_back(const fs::path& draft, const fs::path& place) {
    if (!fs::is_directory(draft / kReplaced)) return;
    for (const auto& kept : fs::directory_iterator(draft / kReplaced)) {
        const fs::path target = place / kept.path().filename();
        if (fs::symlink_status(target).type() == fs::file_type::not_found) fs::rename(kept.path(), target);
    }
}

// Removes what processes that were killed left in a folder, once in the life of this process.
void sweep(const fs::path& place) {
    static std::mutex mutex;
    static std::set<std::pair<pid_t, fs::path>> swept;
    std::error_code failed;
    const fs::path real = fs::canonical(place, failed);
    {
        const std::lock_guard lock(mutex);
        if (failed || !swept.emplace(getpid(), real).second) return;
    }
    for (fs::directory_iterator entry(real, failed), end; !failed && entry != end; entry.increment(failed)) {
        const auto owner = owner_of(entry->path().filename().string());
        try {
            if (!owner || !is_left(entry->path(), *owner)) continue;
            put_back(entry->path(), real);
            fs::remove_all(entry->path());
        } catch (const fs::filesystem_error&) {  // another process is sweeping too, or it may not be removed
        }
    }
}

std::string unique_digits() {
    static std::atomic<std::uint64_t> serial{0};
    std::random_device random;
    const std::string seed = std::to_string(random()) + "-" + std::to_string(random()) + "-" + std::to_string(++serial);
    return sha256_of(seed).substr(0, 12);
}

}  // namespace

Draft::Draft(const fs::path& beside) {
    const fs::path place = beside.empty() ? fs::path(".") : beside;
    sweep(place);
    const std::string pid = std::to_string(getpid());
    folder_ = place / (".gstk-" + host_token() + "-" + pid + "-" + std::to_string(process_start(pid)) + "-" + unique_digits());
    if (mkdir(folder_.c_str(), 0700) != 0)
        throw fs::filesystem_error("cannot make a folder", folder_, {errno, std::generic_category()});
}

Draft::~Draft() {
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
}

}  // namespace gstk::impl
