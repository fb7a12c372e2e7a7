#include "nifti.hpp"

#include <zlib.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>

namespace gstk::impl {
namespace {

constexpr std::size_t kHeader1 = 348, kHeader2 = 540;
constexpr unsigned kChunkBytes = 1u << 20;
constexpr std::int64_t kUint16Code = 512;

struct CloseGz {
    void operator()(gzFile_s* file) const { gzclose(file); }
};
using GzFile = std::unique_ptr<gzFile_s, CloseGz>;

// Reads and writes numbers of a header, of either byte order.
template <class T>
T get(const std::string& header, std::size_t offset, bool swapped) {
    char bytes[sizeof(T)];
    std::memcpy(bytes, header.data() + offset, sizeof(T));
    if (swapped) std::reverse(bytes, bytes + sizeof(T));
    T value;
    std::memcpy(&value, bytes, sizeof(T));
    return value;
}

template <class T>
void put(std::string& header, std::size_t offset, T value, bool swapped) {
    char bytes[sizeof(T)];
    std::memcpy(bytes, &value, sizeof(T));
    if (swapped) std::reverse(bytes, bytes + sizeof(T));
    std::memcpy(header.data() + offset, bytes, sizeof(T));
}

bool is_second(const std::string& header) {
    return header.size() == kHeader2;
}

bool is_swapped(const std::string& header) {
    const auto size = get<std::int32_t>(header, 0, false);
    return size != static_cast<std::int32_t>(kHeader1) && size != static_cast<std::int32_t>(kHeader2);
}

// A field whose place and type differ between NIfTI-1 and NIfTI-2.
template <class First, class Second>
double number(const std::string& header, std::size_t first, std::size_t second, std::size_t index = 0) {
    const bool swapped = is_swapped(header);
    if (is_second(header)) return static_cast<double>(get<Second>(header, second + index * sizeof(Second), swapped));
    return static_cast<double>(get<First>(header, first + index * sizeof(First), swapped));
}

template <class First, class Second>
void set_number(std::string& header, std::size_t first, std::size_t second, double value, std::size_t index = 0) {
    const bool swapped = is_swapped(header);
    if (is_second(header))
        put(header, second + index * sizeof(Second), static_cast<Second>(value), swapped);
    else
        put(header, first + index * sizeof(First), static_cast<First>(value), swapped);
}

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

double mm_per_unit(int units) {
    switch (units & 7) {
        case 1:
            return 1e3;
        case 3:
            return 1e-3;
        default:
            return 1;
    }
}

std::string read_header(gzFile_s* file, const std::string& where) {
    std::string header(kHeader1, '\0');
    const auto read = [&](std::size_t from, std::size_t count) {
        return gzread(file, header.data() + from, static_cast<unsigned>(count)) == static_cast<int>(count);
    };
    bool good = read(0, kHeader1);
    for (const bool swapped : {false, true})
        if (good && get<std::int32_t>(header, 0, swapped) == static_cast<std::int32_t>(kHeader2)) {
            header.resize(kHeader2);
            good = read(kHeader1, kHeader2 - kHeader1);
            break;
        }
    if (!good) throw error(GSTK_ERROR_CASE, where, " is no NIfTI file, or truncated; copy it anew");
    return header;
}

// Slope and intercept applied, as ITK does: to float, or to double where the stored type is as wide.
template <class T>
std::shared_ptr<const void> scaled(const T* stored, std::size_t count, const NiftiLayout& layout, gstk_dtype& dtype) {
    using Result = std::conditional_t<(sizeof(T) < 4 || std::is_same_v<T, float>), float, double>;
    dtype = std::is_same_v<Result, float> ? GSTK_FLOAT32 : GSTK_FLOAT64;
    auto result = std::make_shared<std::vector<Result>>(count);
    for (std::size_t i = 0; i < count; ++i)
        (*result)[i] = static_cast<Result>(static_cast<double>(stored[i]) * layout.slope + layout.intercept);
    return {result, result->data()};
}

// A header for a volume that came from elsewhere: spacing, and the axes of ITK's identity (x left, y posterior).
std::string fresh_header(const Geometry& geometry, const std::string& path) {
    const Shape& shape = geometry.shape();
    if (*std::max_element(shape.begin(), shape.end()) > 32767)
        throw error(GSTK_ERROR_OUTPUT, "got a volume of ", text(shape), " for ", path,
                    ", expected sides up to 32767 in NIfTI-1; write an .npz");
    std::string header(kHeader1, '\0');
    put(header, 0, static_cast<std::int32_t>(kHeader1), false);
    put<std::int16_t>(header, 40, 3, false);
    for (std::size_t i = 0; i < 7; ++i) put<std::int16_t>(header, 42 + 2 * i, 1, false);
    for (std::size_t i = 0; i < 3; ++i) {
        put(header, 42 + 2 * i, static_cast<std::int16_t>(shape[2 - i]), false);
        put(header, 80 + 4 * i, static_cast<float>(geometry.spacing_mm()[2 - i]), false);
    }
    put(header, 76, 1.0f, false);              // handedness of the quaternion
    header[123] = 2;                           // millimetres
    put<std::int16_t>(header, 252, 1, false);  // the quaternion (0, 0, 0, 1) turns x and y round, from NIfTI's to ITK's
    put(header, 264, 1.0f, false);
    std::memcpy(header.data() + 344, "n+1", 4);
    return header;
}

}  // namespace

NiftiLayout parse_nifti(const std::string& header, const std::string& where) {
    if (header.size() != kHeader1 && header.size() != kHeader2)
        throw error(GSTK_ERROR_CASE, where, " is no NIfTI file, or truncated; copy it anew");
    const bool swapped = is_swapped(header), second = is_second(header);
    const char* magic = header.data() + (second ? 4 : 344);
    if (get<std::int32_t>(header, 0, swapped) != static_cast<std::int32_t>(header.size()) ||
        std::memcmp(magic, second ? "n+2" : "n+1", 4) != 0)
        throw error(GSTK_ERROR_CASE, where, " is no NIfTI file with its voxels inside; convert it to .nii");
    NiftiLayout layout{};
    layout.swapped = swapped;
    const auto axes = static_cast<std::int64_t>(number<std::int16_t, std::int64_t>(header, 40, 16));
    bool is_3d = axes >= 3 && axes <= 7;
    for (std::size_t i = 4; is_3d && i <= static_cast<std::size_t>(axes); ++i)
        is_3d = number<std::int16_t, std::int64_t>(header, 40, 16, i) == 1;
    if (!is_3d) throw error(GSTK_ERROR_CASE, "got ", axes, " axes in ", where, ", expected 3; split other axes off");
    const auto units = second ? get<std::int32_t>(header, 500, swapped) : header[123];
    for (std::size_t i = 0; i < 3; ++i) {
        const double side = number<std::int16_t, std::int64_t>(header, 40, 16, 3 - i);
        if (!(side >= 1 && side < 0x1p31))
            throw error(GSTK_ERROR_CASE, "got a side of ", side, " voxels in ", where, ", expected 1 or more");
        layout.shape[i] = static_cast<std::int64_t>(side);
        layout.spacing_mm[i] = std::fabs(number<float, double>(header, 76, 104, 3 - i)) * mm_per_unit(units);
    }
    layout.dtype = dtype_of(get<std::int16_t>(header, second ? 12 : 70, swapped), where);
    const double offset = number<float, std::int64_t>(header, 108, 168);
    if (!(offset >= static_cast<double>(header.size()) && offset < 0x1p40))
        throw error(GSTK_ERROR_CASE, "got voxels at byte ", offset, " of ", where, ", expected them behind the header");
    layout.offset_bytes = static_cast<std::int64_t>(offset);
    layout.slope = number<float, double>(header, 112, 176);
    layout.intercept = number<float, double>(header, 116, 184);
    if (layout.slope == 0 || !std::isfinite(layout.slope) || !std::isfinite(layout.intercept)) {
        layout.slope = 1;  // says that there is no scaling
        layout.intercept = 0;
    }
    return layout;
}

Volume read_nifti(const std::string& path) {
    const GzFile file(gzopen(path.c_str(), "rb"));  // reads what is not compressed, too
    if (!file) throw error(GSTK_ERROR_CASE, "cannot read ", path, "; check the path");
    const std::string header = read_header(file.get(), path);
    const NiftiLayout layout = parse_nifti(header, path);
    const Geometry geometry(layout.shape, layout.spacing_mm);
    const std::size_t count = static_cast<std::size_t>(count_of(layout.shape)), size = size_of(layout.dtype);
    if (gzseek(file.get(), static_cast<z_off_t>(layout.offset_bytes), SEEK_SET) < 0)
        throw error(GSTK_ERROR_CASE, path, " is truncated: its voxels are missing; copy it anew");
    // Memory grows as data arrives, so a header that lies about a huge image costs nothing.
    auto bytes = std::make_shared<std::vector<char>>();
    while (bytes->size() < count * size) {
        const std::size_t done = bytes->size();
        const auto wanted = static_cast<unsigned>(std::min<std::size_t>(kChunkBytes, count * size - done));
        bytes->resize(done + wanted);
        if (gzread(file.get(), bytes->data() + done, wanted) != static_cast<int>(wanted))
            throw error(GSTK_ERROR_CASE, path, " is truncated: expected ", count * size,
                        " bytes of voxels; copy it anew");
    }
    if (layout.swapped)
        for (std::size_t i = 0; size > 1 && i < bytes->size(); i += size)
            std::reverse(bytes->data() + i, bytes->data() + i + size);
    Volume volume{geometry, layout.dtype, {bytes, bytes->data()}, header};
    if (layout.slope != 1 || layout.intercept != 0)
        volume.voxels = volume.visit([&](auto* stored) { return scaled(stored, count, layout, volume.dtype); });
    return volume;
}

void write_nifti_mask(const std::string& path, const Volume& volume, const std::uint16_t* mask, bool compress) {
    std::string header = volume.nifti_header.empty() ? fresh_header(volume.geometry, path) : volume.nifti_header;
    const bool swapped = is_swapped(header), second = is_second(header);
    put<std::int16_t>(header, second ? 12 : 70, kUint16Code, swapped);
    put<std::int16_t>(header, second ? 14 : 72, 16, swapped);
    set_number<float, std::int64_t>(header, 108, 168, static_cast<double>(header.size() + 4));
    set_number<float, double>(header, 112, 176, 1);
    set_number<float, double>(header, 116, 184, 0);
    for (std::size_t i = 0; i < 2; ++i) set_number<float, double>(header, 124, 192, 0, i);  // display range
    header.append(4, '\0');                                                                 // no extension follows
    std::vector<std::uint16_t> voxels(mask, mask + volume.count());
    if (swapped)
        for (auto& v : voxels) v = static_cast<std::uint16_t>(v << 8 | v >> 8);
    GzFile file(gzopen(path.c_str(), compress ? "wb3" : "wbT"));
    const auto write = [&](const char* data, std::size_t count) {
        for (std::size_t done = 0; file && done < count; done += kChunkBytes) {
            const auto size = static_cast<unsigned>(std::min<std::size_t>(kChunkBytes, count - done));
            if (gzwrite(file.get(), data + done, size) != static_cast<int>(size)) return false;
        }
        return file != nullptr;
    };
    const bool good = write(header.data(), header.size()) &&
                      write(reinterpret_cast<const char*>(voxels.data()), voxels.size() * sizeof(voxels[0]));
    if (!good || gzclose(file.release()) != Z_OK)
        throw error(GSTK_ERROR_OUTPUT, "cannot write ", path, "; check that its folder can be written to");
}

}  // namespace gstk::impl
