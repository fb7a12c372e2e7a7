#include "volume_files.hpp"

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "intensity_range.hpp"
#include "nifti.hpp"
#include "npz.hpp"
#include "whole_file.hpp"

namespace gstk::impl {
namespace {

namespace fs = std::filesystem;

enum class Format { kNpz, kNifti, kNiftiGz };

Format format_of(const std::string& path, gstk_status code) {
    std::string name = path;
    std::transform(name.begin(), name.end(), name.begin(),
                   [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
    const auto ends_with = [&](const std::string& suffix) {
        return name.size() >= suffix.size() && name.compare(name.size() - suffix.size(), suffix.size(), suffix) == 0;
    };
    if (ends_with(".npz")) return Format::kNpz;
    if (ends_with(".nii")) return Format::kNifti;
    if (ends_with(".nii.gz")) return Format::kNiftiGz;
    throw error(code, "got the file name ", printable(path), ", expected .npz, .nii or .nii.gz; ",
                code == GSTK_ERROR_CASE ? "make an .npz of DICOM, NRRD or MetaImage with `gstk prepare`, or read it "
                                          "yourself and hand its voxels over (gstk_volume_wrap)"
                                        : "write another format yourself, from gstk_session_read_mask");
}

Triple read_spacing(const std::string& path) {
    const Array found = read_array(path, "spacing");
    return with_type(found.dtype, [&](auto* typed) {
        using T = std::remove_const_t<std::remove_pointer_t<decltype(typed)>>;
        if (found.bytes.size() != 3 * sizeof(T))
            throw error(GSTK_ERROR_GEOMETRY, "got a spacing of ", found.bytes.size() / sizeof(T), " numbers in ", path,
                        ", expected three");
        std::array<T, 3> values;
        std::memcpy(values.data(), found.bytes.data(), found.bytes.size());
        return Triple{static_cast<double>(values[0]), static_cast<double>(values[1]), static_cast<double>(values[2])};
    });
}

// Whether a spacing (z, y, x) looks as if it were (x, y, z): slices are the axis apart from the others both in number and
// in spacing, and here the two disagree.
bool looks_reversed(const Geometry& geometry) {
    const Triple& side = geometry.spacing_mm();
    const Shape& shape = geometry.shape();
    const auto are_close = [](double a, double b) { return std::abs(a - b) <= 1e-8 + 1e-3 * std::abs(b); };
    return are_close(side[0], side[1]) && !are_close(side[1], side[2]) && shape[0] < std::min(shape[1], shape[2]);
}

Volume read_npz_volume(const std::string& path) {
    auto image = std::make_shared<Array>(read_array(path, "imgs"));
    if (image->shape.size() != 3)
        throw error(GSTK_ERROR_CASE, "got ", image->shape.size(), " axes for 'imgs' of ", path,
                    ", expected three (z, y, x); split other axes off");
    const Shape shape{image->shape[0], image->shape[1], image->shape[2]};
    std::vector<std::string> notes;
    Triple spacing{1, 1, 1};
    if (has_array(path, "spacing"))
        spacing = read_spacing(path);
    else
        notes.push_back(path + " has no 'spacing'; 1 mm along each axis is assumed");
    const Geometry geometry(shape, spacing);
    if (looks_reversed(geometry))
        notes.push_back("the spacing of " + path + ", read as (z, y, x) = " + text(spacing) + " for the shape " +
                        text(shape) + ", looks reversed");
    Volume volume{geometry, image->dtype, {image, image->bytes.data()}};
    volume.notes = std::move(notes);
    return volume;
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

}  // namespace

Volume read_volume(const std::string& path) {
    const Format format = format_of(path, GSTK_ERROR_CASE);
    Volume volume = format == Format::kNpz ? read_npz_volume(path) : read_nifti(path);
    volume.require_finite();
    volume.name = fs::path(path).filename().string();
    volume.name.resize(volume.name.size() - (format == Format::kNiftiGz ? 7 : 4));
    // uint8 has no room for HU
    if (volume.dtype == GSTK_UINT8 || (format == Format::kNpz && is_case_like(volume))) volume.units = "0-255";
    return volume;
}

void write_mask(const std::string& path, const Volume& volume, const std::uint16_t* mask) {
    const Format format = format_of(path, GSTK_ERROR_OUTPUT);
    write_whole(path, [&](const std::string& partial) {
        if (format == Format::kNpz)
            write_array(partial, "segs", label_map(mask, volume));
        else
            write_nifti_mask(partial, volume, mask, format == Format::kNiftiGz);
    });
}

}  // namespace gstk::impl
