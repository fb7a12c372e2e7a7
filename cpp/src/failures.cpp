#include "failures.hpp"

#include <regex.h>

#include <mutex>

namespace gstk::impl {
namespace {

struct Kind {
    gstk_status code;
    const char* pattern;  // an extended regular expression, of any case
    const char* remedy;
};

const Kind kKinds[] = {
    {GSTK_ERROR_ARCHITECTURE,
     R"(no kernel image|unsupported (SM|GPU|arch)|sm_[0-9]+ is not (compatible|supported)|INVALID_?DEVICE_?FUNCTION|)"
     R"(compute capability.{0,40}not supported|requires device with|)"
     R"(plan file.{0,60}(different|not compatible|incompatible))",
     "the backend was not built for this GPU; install a build for it, or take another backend"},
    {GSTK_ERROR_MEMORY,
     R"(out of memory|OUT_?OF_?MEMORY|bad_alloc|BFCArena|failed to allocate|cannot allocate|not enough memory|)"
     R"(MEMORY_?ALLOCATION|ALLOC_FAILED)",
     "take smaller regions or fewer objects at once, an fp16 or int8 bundle, or free memory"},
    {GSTK_ERROR_DRIVER,
     R"(driver version is insufficient|INSUFFICIENT_?DRIVER|no CUDA-capable device|NO_?DEVICE\b|)"
     R"(no NVIDIA driver|libcuda\.so)",
     "install the NVIDIA driver, or a newer one, or take another backend"},
    {GSTK_ERROR_DEVICE,
     R"(\bCUDA\b.{0,40}(error|failure)|cudaError|CUDA_ERROR|CUDNN|CUBLAS|illegal memory access|device-side assert|)"
     R"(launch failure|\bCUDA (runtime|driver) \(|misaligned address)",
     "start another process; this one does not use the GPU again"},
};

// Whether a text has a match. std::regex would do, but takes longer to compile than the rest of this library's files.
bool matches(const std::string& text, const char* pattern) {
    regex_t compiled;
    if (regcomp(&compiled, pattern, REG_EXTENDED | REG_ICASE | REG_NOSUB | REG_NEWLINE) != 0) return false;
    const bool found = regexec(&compiled, text.c_str(), 0, nullptr, 0) == 0;
    regfree(&compiled);
    return found;
}

std::mutex& mutex() {
    static auto& found = *new std::mutex;
    return found;
}

// The first CUDA error of the process; empty as long as there was none.
std::string& lost() {
    static auto& found = *new std::string;
    return found;
}

}  // namespace

Error failure(const std::string& backend, const std::string& task, const std::string& reason) {
    const std::string said = first_line(reason);
    for (const auto& kind : kKinds) {
        if (!matches(reason, kind.pattern)) continue;
        if (kind.code == GSTK_ERROR_DEVICE) {
            const std::lock_guard<std::mutex> lock(mutex());
            if (lost().empty()) lost() = said;
        }
        return error(kind.code, backend, " failed to ", task, ": ", said, "; ", kind.remedy);
    }
    return error(GSTK_ERROR_ENGINE, backend, " failed to ", task, ": ", said);
}

bool is_device_lost() {
    const std::lock_guard<std::mutex> lock(mutex());
    return !lost().empty();
}

void refuse_lost_device() {
    const std::lock_guard<std::mutex> lock(mutex());
    if (!lost().empty())
        throw error(GSTK_ERROR_DEVICE, "this process had a CUDA error (", lost(),
                    "); start another process to use the GPU again");
}

}  // namespace gstk::impl
