#include "nifti.hpp"

#include <zlib.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <memory>

#include "nifti_forms.hpp"

namespace gstk::impl {
namespace {

using namespace nifti;

constexpr unsigned kChunkBytes = 1u << 20;
constexpr double kLargestGzipRatio = 1032;  // gzip packs no more bytes than this into one

struct CloseGz {
    void operator()(gzFile_s* file) const { gzclose(file); }
};
using GzFile = std::unique_ptr<gzFile_s, CloseGz>;

gstk_dtype dtype_of(int code, const std::string& where) {
    switch (code) {
        case 2:
            return GSTK_UINT8;
        case 256:
            return GSTK_INT8;
        case 512:
            return GSTK_UINT16;
        case 4:
            return GSTK_INT16;
        case 768:
            return GSTK_UINT32;
        case 8:
            return GSTK_INT32;
        case 1280:
            return GSTK_UINT64;
        case 1024:
            return GSTK_INT64;
        case 16:
            return GSTK_FLOAT32;
        case 64:
            return GSTK_FLOAT64;
        default:
            throw error(GSTK_ERROR_CASE, "got NIfTI data type ", code, " in ", where, ", expected real numbers");
    }
}

double spacing_at(double value) {
    const auto rounded = static_cast<float>(value);
    return static_cast<double>(std::nextafter(rounded, std::numeric_limits<float>::infinity())) - rounded;
}

// Whether a float tells apart what the stored values tell apart; mirrors gstk.cases.rescaling.
template <class T>
bool fits_float(const T* stored, std::size_t count, const NiftiLayout& layout) {
    if constexpr (sizeof(T) >= 4 && !std::is_same_v<T, float>) return false;
    double low = std::numeric_limits<double>::infinity(), high = -low;
    for (std::size_t i = 0; i < count; ++i) {
        const auto value = static_cast<double>(stored[i]);
        if (!std::isfinite(value)) continue;
        low = std::min(low, value);
        high = std::max(high, value);
    }
    if (low > high || (low == 0 && high == 0)) return true;
    const double largest = std::max(std::abs(low * layout.slope + layout.intercept),
                                    std::abs(high * layout.slope + layout.intercept));
    if (!(largest <= static_cast<double>(std::numeric_limits<float>::max()))) return false;
    double step = std::abs(layout.slope);
    // Neighbours among floats are rounded again.
    if constexpr (std::is_same_v<T, float>) step *= 2 * spacing_at(std::max(std::abs(low), std::abs(high)));
    return spacing_at(largest) <= step;
}

template <class Result, class T>
std::shared_ptr<const void> scaled_to(const T* stored, std::size_t count, const NiftiLayout& layout, gstk_dtype& dtype) {
    dtype = std::is_same_v<Result, float> ? GSTK_FLOAT32 : GSTK_FLOAT64;
    auto result = std::make_shared<std::vector<Result>>(count);
    for (std::size_t i = 0; i < count; ++i)
        (*result)[i] = static_cast<Result>(static_cast<double>(stored[i]) * layout.slope + layout.intercept);
    return {result, result->data()};
}

// Slope and intercept applied: to float, or to double where that alone keeps the contrast.
template <class T>
std::shared_ptr<const void> scaled(const T* stored, std::size_t count, const NiftiLayout& layout, gstk_dtype& dtype) {
    if (fits_float(stored, count, layout)) return scaled_to<float>(stored, count, layout, dtype);
    return scaled_to<double>(stored, count, layout, dtype);
}

// How many voxels were NaN or infinite; they are 0 from now on.
template <class T>
std::size_t clear_strange([[maybe_unused]] const T* data, [[maybe_unused]] std::int64_t count) {
    std::size_t found = 0;
    if constexpr (std::is_floating_point_v<T>)
        for (std::int64_t i = 0; i < count; ++i)
            if (!std::isfinite(data[i])) {
                const_cast<T*>(data)[i] = 0;  // the reader's own
                ++found;
            }
    return found;
}

std::string read_start(gzFile_s* file) {
    std::string bytes(kSize2, '\0');
    const int got = gzread(file, bytes.data(), static_cast<unsigned>(kSize2));
    bytes.resize(static_cast<std::size_t>(std::max(got, 0)));
    return bytes;
}

// `size` bytes a voxel of `count` voxels, swapped to this machine's order.
std::shared_ptr<std::vector<char>> read_voxels(gzFile_s* file, std::size_t count, std::size_t size, bool swapped,
                                               const std::string& path) {
    // Memory grows as data arrives, so a header that lies about a huge image costs nothing.
    auto bytes = std::make_shared<std::vector<char>>();
    while (bytes->size() < count * size) {
        const std::size_t done = bytes->size();
        const auto wanted = static_cast<unsigned>(std::min<std::size_t>(kChunkBytes, count * size - done));
        bytes->resize(done + wanted);
        if (gzread(file, bytes->data() + done, wanted) != static_cast<int>(wanted))
            throw error(GSTK_ERROR_CASE, path, " is truncated: expected ", count * size,
                        " bytes of voxels; copy it anew");
    }
    for (std::size_t i = 0; swapped && size > 1 && i < bytes->size(); i += size)
        std::reverse(bytes->data() + i, bytes->data() + i + size);
    return bytes;
}

}  // namespace

NiftiLayout layout_of(const NiftiHeader& header, const std::string& where) {
    NiftiLayout layout{};
    const double axes = header.get(kDim);
    bool is_3d = axes >= 3 && axes <= 7;
    for (std::size_t i = 4; is_3d && i <= static_cast<std::size_t>(axes); ++i) is_3d = header.get(kDim, i) <= 1;
    if (!is_3d) throw error(GSTK_ERROR_CASE, "got ", axes, " axes in ", where, ", expected 3; split other axes off");
    for (std::size_t i = 0; i < 3; ++i) {
        const double side = header.get(kDim, 3 - i);
        if (!(side >= 1 && side < 0x1p31))
            throw error(GSTK_ERROR_CASE, "got a side of ", side, " voxels in ", where, ", expected 1 or more");
        layout.shape[i] = static_cast<std::int64_t>(side);
    }
    layout.dtype = dtype_of(static_cast<int>(header.get(kDatatype)), where);
    const double offset = header.get(kOffset);
    if (!(offset >= static_cast<double>(header.bytes().size()) && offset < 0x1p40))
        throw error(GSTK_ERROR_CASE, "got voxels at byte ", offset, " of ", where, ", expected them behind the header");
    layout.offset_bytes = static_cast<std::int64_t>(offset);
    layout.slope = header.get(kScale, 0);
    layout.intercept = header.get(kScale, 1);
    if (layout.slope == 0 || !std::isfinite(layout.slope) || !std::isfinite(layout.intercept)) {
        layout.slope = 1;  // says that there is no scaling
        layout.intercept = 0;
    }
    return layout;
}

Volume read_nifti(const std::string& path) {
    const GzFile file(gzopen(path.c_str(), "rb"));  // reads what is not compressed, too
    if (!file) throw error(GSTK_ERROR_CASE, "cannot read ", path, "; check the path");
    const NiftiHeader header(read_start(file.get()), path);
    const NiftiLayout layout = layout_of(header, path);
    std::vector<std::string> notes;
    const double slope = header.get(kScale, 0), intercept = header.get(kScale, 1);
    if (std::isinf(slope) || (slope != 0 && std::isfinite(slope) && !std::isfinite(intercept)))
        notes.push_back(joined("got the slope ", slope, " and the intercept ", intercept, " in ", path,
                               ", expected finite numbers; the stored values are taken as they are"));
    const Geometry geometry = geometry_of(header, layout.shape, path, notes);
    Volume volume{geometry, layout.dtype, nullptr, header.bytes()};
    volume.notes = std::move(notes);
    volume.has_orientation = header.get(kCodes, 0) > 0 || header.get(kCodes, 1) > 0;
    const std::size_t count = static_cast<std::size_t>(count_of(layout.shape)), size = size_of(layout.dtype);
    std::error_code failed;
    const auto file_bytes = static_cast<double>(std::filesystem::file_size(path, failed));
    if (!failed && static_cast<double>(count * size) > kLargestGzipRatio * file_bytes)
        throw error(GSTK_ERROR_CASE, path, " is truncated: it is too small for the ", count,
                    " voxels that its header states");
    if (gzseek(file.get(), static_cast<z_off_t>(layout.offset_bytes), SEEK_SET) < 0)
        throw error(GSTK_ERROR_CASE, path, " is truncated: its voxels are missing; copy it anew");
    const auto bytes = read_voxels(file.get(), count, size, header.is_swapped(), path);
    volume.voxels = {bytes, bytes->data()};
    if (layout.slope != 1 || layout.intercept != 0)
        volume.voxels = volume.visit([&](auto* stored) { return scaled(stored, count, layout, volume.dtype); });
    const std::size_t strange = volume.visit([&](auto* data) { return clear_strange(data, volume.count()); });
    if (strange)
        volume.notes.push_back(joined(strange, " voxels of ", path, " are NaN or infinity; they are taken as 0"));
    return volume;
}

void write_nifti_mask(const std::string& path, const Volume& volume, const std::uint16_t* mask, bool compress) {
    const std::string& known = volume.nifti_header;
    NiftiHeader header = known.empty() ? header_of(volume.geometry) : NiftiHeader(known, path);
    const std::int64_t count = volume.count();
    const bool narrow = std::all_of(mask, mask + count, [](std::uint16_t id) { return id < 256; });
    header.set(kDatatype, narrow ? 2 : 512);
    header.set(kBitpix, narrow ? 8 : 16);
    header.set(kOffset, static_cast<double>(header.bytes().size() + 4));
    header.set(kScale, 1, 0);
    header.set(kScale, 0, 1);
    for (std::size_t i = 0; i < 2; ++i) header.set(kDisplay, 0, i);
    for (std::size_t i = 4; i <= static_cast<std::size_t>(header.get(kDim)); ++i)
        if (header.get(kDim, i) < 1) header.set(kDim, 1, i);  // to other readers an image of no voxels
    std::string content = header.bytes() + std::string(4, '\0');  // no extension follows
    if (narrow) {
        content.append(mask, mask + count);
    } else {
        const std::size_t begin = content.size();
        content.append(reinterpret_cast<const char*>(mask), 2 * static_cast<std::size_t>(count));
        for (std::size_t i = begin; header.is_swapped() && i < content.size(); i += 2)
            std::swap(content[i], content[i + 1]);
    }
    GzFile file(gzopen(path.c_str(), compress ? "wb3" : "wbT"));
    bool good = file != nullptr;
    for (std::size_t done = 0; good && done < content.size(); done += kChunkBytes) {
        const auto size = static_cast<unsigned>(std::min<std::size_t>(kChunkBytes, content.size() - done));
        good = gzwrite(file.get(), content.data() + done, size) == static_cast<int>(size);
    }
    if (!good || gzclose(file.release()) != Z_OK)
        throw error(GSTK_ERROR_OUTPUT, "cannot write ", path, "; check that its folder can be written to");
}

}  // namespace gstk::impl
