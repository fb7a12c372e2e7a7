// One input for the readers of what strangers send: a manifest, an array, a NIfTI header, a whole archive or image.
// The first byte chooses. Reading may end in gstk's own error and in nothing else.
#include <unistd.h>

#include <cstdio>
#include <string>
#include <vector>

#include "manifest.hpp"
#include "nifti.hpp"
#include "npz.hpp"
#include "volume_files.hpp"

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

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
    if (size < 1) return 0;
    const char* data = reinterpret_cast<const char*>(bytes) + 1;
    --size;
    try {
        switch (bytes[0] % 5) {
            case 0:
                Manifest::parse({data, size}, "manifest.json");
                break;
            case 1:
                parse_npy({data, data + size}, "an array");
                break;
            case 2:
                parse_nifti({data, size}, "a header");
                break;
            case 3:
                read_file(data, size, ".npz");
                break;
            default:
                read_file(data, size, ".nii");
                break;
        }
    } catch (const Error&) {
    }
    return 0;
}
