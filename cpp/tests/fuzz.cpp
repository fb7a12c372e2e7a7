// One input for the readers of what strangers send: a manifest, an array, a NIfTI header, a whole archive or image, an
// image that is compressed, a bundle. The first byte chooses. Reading may end in gstk's own error and in nothing else,
// takes less than a second of processor time and, where AddressSanitizer counts it, at most ten times the input and
// 64 MB of memory.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <string>
#include <vector>

#include "bundle.hpp"
#include "manifest.hpp"
#include "nifti.hpp"
#include "npz.hpp"
#include "volume_files.hpp"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define GSTK_COUNTS_MEMORY
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define GSTK_COUNTS_MEMORY
#endif
#ifdef GSTK_COUNTS_MEMORY
// Of sanitizer/allocator_interface.h, which not every compiler with this sanitizer brings along.
extern "C" int __sanitizer_install_malloc_and_free_hooks(void (*)(const volatile void*, std::size_t),
                                                         void (*)(const volatile void*));
extern "C" std::size_t __sanitizer_get_allocated_size(const volatile void*);
#endif

namespace {

using namespace gstk::impl;

// A file of its own for each process, in memory where the system has that.
std::string write_file(const char* data, std::size_t size, const std::string& suffix) {
    static const std::string base =
        (access("/dev/shm", W_OK) == 0 ? "/dev/shm/gstk-fuzz-" : "/tmp/gstk-fuzz-") + std::to_string(getpid());
    const std::string path = base + suffix;
    if (std::FILE* file = std::fopen(path.c_str(), "wb")) {
        std::fwrite(data, 1, size, file);
        std::fclose(file);
    }
    return path;
}

void read_file(const char* data, std::size_t size, const std::string& suffix) {
    const std::string path = write_file(data, size, suffix);
    try {
        read_volume(path);
    } catch (const Error&) {
        std::remove(path.c_str());
        throw;
    }
    std::remove(path.c_str());
}

// A folder with this manifest, and with every file that tiny has, empty.
void open_bundle(const char* data, std::size_t size) {
    static const std::string folder =
        (access("/dev/shm", W_OK) == 0 ? "/dev/shm/gstk-fuzz-" : "/tmp/gstk-fuzz-") + std::to_string(getpid()) + "-b";
    std::filesystem::create_directories(folder);
    for (const char* name : {"encoder.onnx", "prompt_decoder.onnx", "vectors.npz"}) {
        std::fclose(std::fopen((folder + "/" + name).c_str(), "wb"));
    }
    if (std::FILE* file = std::fopen((folder + "/manifest.json").c_str(), "wb")) {
        std::fwrite(data, 1, size, file);
        std::fclose(file);
    }
    try {
        Bundle::open(folder);
    } catch (const Error&) {
        std::filesystem::remove_all(folder);
        throw;
    }
    std::filesystem::remove_all(folder);
}

constexpr std::int64_t kMostTimes = 10, kMostMoreBytes = 64000000;

// Bytes of this process's heap, of all libraries, since reading began; always 0 without AddressSanitizer.
std::int64_t held_bytes = 0, peak_bytes = 0;

#ifdef GSTK_COUNTS_MEMORY
void count_allocated(const volatile void*, std::size_t size) {
    held_bytes += static_cast<std::int64_t>(size);
    peak_bytes = std::max(peak_bytes, held_bytes);
}

void count_freed(const volatile void* place) {
    if (place) held_bytes -= static_cast<std::int64_t>(__sanitizer_get_allocated_size(place));
}

const bool counts = __sanitizer_install_malloc_and_free_hooks(&count_allocated, &count_freed) != 0;
#endif

double thread_seconds() {
    timespec now{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
    if (size < 1) return 0;
    const char* data = reinterpret_cast<const char*>(bytes) + 1;
    --size;
    const double began = thread_seconds();
    held_bytes = peak_bytes = 0;
    try {
        switch (bytes[0] % 7) {
            case 0:
                Manifest::parse({data, size}, "manifest.json");
                break;
            case 1:
                parse_npy({data, data + size}, "an array");
                break;
            case 2:
                layout_of(NiftiHeader(std::string(data, size), "a header"), "a header");
                break;
            case 3:
                read_file(data, size, ".npz");
                break;
            case 4:
                read_file(data, size, ".nii");
                break;
            case 5:
                read_file(data, size, ".nii.gz");
                break;
            default:
                open_bundle(data, size);
                break;
        }
    } catch (const Error&) {
    }
    if (thread_seconds() - began > 1) {
        std::fprintf(stderr, "ERROR: more than a second for %zu bytes\n", size);
        std::abort();
    }
    if (peak_bytes > kMostTimes * static_cast<std::int64_t>(size) + kMostMoreBytes) {
        std::fprintf(stderr, "ERROR: %lld bytes of memory for %zu\n", static_cast<long long>(peak_bytes), size);
        std::abort();
    }
    return 0;
}
