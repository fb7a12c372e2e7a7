#include "volume_files.hpp"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <filesystem>

#include "nifti.hpp"
#include "npz.hpp"

namespace gstk::impl {
namespace {

namespace fs = std::filesystem;

enum class Format { kNpz, kNifti, kNiftiGz };

Format format_of(const std::string& path, gstk_status code) {
    const auto ends_with = [&](const std::string& suffix) {
        return path.size() >= suffix.size() && path.compare(path.size() - suffix.size(), suffix.size(), suffix) == 0;
    };
    if (ends_with(".npz")) return Format::kNpz;
    if (ends_with(".nii")) return Format::kNifti;
    if (ends_with(".nii.gz")) return Format::kNiftiGz;
    throw error(code, "got the file name ", printable(path), ", expected .npz, .nii or .nii.gz; ",
                code == GSTK_ERROR_CASE ? "make an .npz of DICOM, NRRD or MetaImage with `gstk prepare`, or read it "
                                          "yourself and hand its voxels over (gstk_volume_wrap)"
                                        : "write another format yourself, from gstk_session_read_mask");
}

Volume read_npz_volume(const std::string& path) {
    auto image = std::make_shared<Array>(read_array(path, "imgs"));
    if (image->shape.size() != 3)
        throw error(GSTK_ERROR_CASE, "got ", image->shape.size(), " axes for 'imgs' of ", path,
                    ", expected three (z, y, x); split other axes off");
    Triple spacing{1, 1, 1};
    if (has_array(path, "spacing")) {
        const Array found = read_array(path, "spacing");
        with_type(found.dtype, [&](auto* typed) {
            using T = std::remove_const_t<std::remove_pointer_t<decltype(typed)>>;
            if (found.bytes.size() != 3 * sizeof(T))
                throw error(GSTK_ERROR_GEOMETRY, "got a spacing of ", found.bytes.size() / sizeof(T), " numbers in ",
                            path, ", expected three");
            for (std::size_t a = 0; a < 3; ++a) {
                T value;
                std::memcpy(&value, &found.bytes[a * sizeof(T)], sizeof(T));
                spacing[a] = static_cast<double>(value);
            }
        });
    }
    const Geometry geometry({image->shape[0], image->shape[1], image->shape[2]}, spacing);
    return {geometry, image->dtype, {image, image->bytes.data()}, ""};
}

// The mask as uint8 where its ids fit, as Python writes it.
Array label_map(const std::uint16_t* mask, const Volume& volume) {
    const Shape& shape = volume.geometry.shape();
    const std::uint16_t* end = mask + volume.count();
    const bool narrow = std::all_of(mask, end, [](std::uint16_t id) { return id < 256; });
    Array array{narrow ? GSTK_UINT8 : GSTK_UINT16, {shape.begin(), shape.end()}, {}};
    if (narrow)
        array.bytes.assign(mask, end);
    else
        array.bytes.assign(reinterpret_cast<const char*>(mask), reinterpret_cast<const char*>(end));
    return array;
}

// A name beside `path` that no other thread or process uses, with the same suffix.
fs::path scratch_name(const fs::path& path) {
    static std::atomic<unsigned> serial{0};
    const auto name =
        ".gstk-" + std::to_string(getpid()) + "-" + std::to_string(++serial) + "-" + path.filename().string();
    return path.parent_path() / name;
}

}  // namespace

Volume read_volume(const std::string& path) {
    const Format format = format_of(path, GSTK_ERROR_CASE);
    Volume volume = format == Format::kNpz ? read_npz_volume(path) : read_nifti(path);
    volume.require_finite();
    return volume;
}

void write_mask(const std::string& path, const Volume& volume, const std::uint16_t* mask) {
    const Format format = format_of(path, GSTK_ERROR_OUTPUT);
    const fs::path partial = scratch_name(path);
    std::error_code failed;
    try {
        if (format == Format::kNpz) {
            write_array(partial.string(), "segs", label_map(mask, volume));
        } else {
            write_nifti_mask(partial.string(), volume, mask, format == Format::kNiftiGz);
        }
        fs::rename(partial, path, failed);
    } catch (...) {
        fs::remove(partial, failed);
        throw;
    }
    if (failed) {
        const std::string reason = failed.message();
        fs::remove(partial, failed);
        throw error(GSTK_ERROR_OUTPUT, "cannot write ", path, ": ", reason,
                    "; check that its folder can be written to");
    }
}

}  // namespace gstk::impl
