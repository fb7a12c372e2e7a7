// The C ABI over volumes.
#include "capi.hpp"
#include "volume_files.hpp"

namespace gstk::impl {
namespace {

// A text that may be missing, on one line.
std::string text_or_empty(const char* text) {
    return text ? printable(text) : "";
}

Matrix as_matrix(const double* values) {
    return {Triple{values[0], values[1], values[2]}, Triple{values[3], values[4], values[5]},
            Triple{values[6], values[7], values[8]}};
}

}  // namespace
}  // namespace gstk::impl

using namespace gstk::impl;

gstk_status gstk_volume_wrap(const void* voxels, gstk_dtype dtype, const int64_t shape_zyx[3],
                             const double spacing_mm_zyx[3], void (*release)(void* user_data), void* user_data,
                             gstk_volume** volume) {
    return guarded([&] {
        required(static_cast<const char*>(voxels), "voxels");
        required(volume, "volume");
        size_of(dtype);  // throws for one that is unknown
        const Geometry geometry(triple(shape_zyx, "shape_zyx"), triple(spacing_mm_zyx, "spacing_mm_zyx"));
        const auto let_go = std::make_shared<bool>(false);
        std::shared_ptr<const void> owner(voxels, [release, user_data, let_go](const void*) {
            if (release && *let_go) release(user_data);
        });
        *volume = volumes().add(std::make_shared<const Volume>(Volume{geometry, dtype, std::move(owner)}));
        *let_go = true;  // from here on the voxels are gstk's to release
    });
}

gstk_status gstk_volume_read(const char* path, gstk_volume** volume) {
    return guarded([&] {
        required(volume, "volume");
        *volume = volumes().add(std::make_shared<const Volume>(read_volume(&required(path, "path"))));
    });
}

gstk_status gstk_volume_describe(gstk_volume* volume, gstk_volume_info* info) {
    return guarded([&] {
        const auto found = volumes().get(volume);
        gstk_volume_info value = GSTK_VOLUME_INFO_INIT;
        value.dtype = found->dtype;
        const auto& geometry = found->geometry;
        std::copy(geometry.shape().begin(), geometry.shape().end(), value.shape_zyx);
        std::copy(geometry.spacing_mm().begin(), geometry.spacing_mm().end(), value.spacing_mm_zyx);
        value.voxels = found->voxels.get();
        fill(info, value);
    });
}

gstk_status gstk_volume_get_metadata(gstk_volume* volume, gstk_volume_metadata* metadata) {
    return guarded([&] {
        const auto found = volumes().get(volume);
        gstk_volume_metadata value = GSTK_VOLUME_METADATA_INIT;
        value.units = found->units.c_str();
        value.modality = found->modality.c_str();
        value.has_orientation = found->has_orientation;
        const Geometry& geometry = found->geometry;
        std::copy(geometry.origin_mm().begin(), geometry.origin_mm().end(), value.origin_mm);
        for (std::size_t i = 0; i < 9; ++i) value.direction[i] = geometry.direction()[i / 3][i % 3];
        fill(metadata, value);
    });
}

gstk_status gstk_volume_set_metadata(gstk_volume* volume, const gstk_volume_metadata* metadata) {
    return guarded([&] {
        const auto found = volumes().get(volume);
        const auto given = sized<gstk_volume_metadata>(&required(metadata, "metadata"), GSTK_VOLUME_METADATA_INIT);
        auto changed = std::make_shared<Volume>(*found);
        changed->units = text_or_empty(given.units);
        changed->modality = text_or_empty(given.modality);
        if (!changed->units.empty() && changed->units != "HU" && changed->units != "0-255")
            throw error(GSTK_ERROR_ARGUMENT, "got the units '", changed->units, "', expected HU, 0-255 or none");
        changed->has_orientation = given.has_orientation != 0;
        const Geometry& before = found->geometry;
        if (changed->has_orientation)
            changed->geometry = Geometry(before.shape(), before.spacing_mm(), triple(given.origin_mm, "origin_mm"),
                                         with_unit_axes(as_matrix(given.direction)));
        else if (found->has_orientation)
            changed->geometry = Geometry(before.shape(), before.spacing_mm());
        const bool is_same_place = changed->geometry.origin_mm() == before.origin_mm() &&
                                   changed->geometry.direction() == before.direction();
        if (!is_same_place) changed->nifti_header.clear();  // a mask would lie where the file does
        volumes().replace(volume, std::move(changed));
    });
}

gstk_status gstk_volume_write_mask(gstk_volume* volume, const uint16_t* mask, size_t count, const char* path) {
    return guarded([&] {
        const auto found = volumes().get(volume);
        required(mask, "mask");
        if (count != static_cast<std::size_t>(found->count()))
            throw error(GSTK_ERROR_ARGUMENT, "got a mask of ", count, " voxels, expected ", found->count());
        write_mask(&required(path, "path"), *found, mask);
    });
}

gstk_status gstk_volume_close(gstk_volume* volume) {
    return guarded([&] { volumes().close(volume); });
}
