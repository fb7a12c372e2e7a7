// An image as a host hands it over: voxels of any real type, and where they came from.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "error.hpp"
#include "geometry.hpp"

namespace gstk::impl {

std::size_t size_of(gstk_dtype dtype);

// Calls `what` with a null pointer of the dtype's C++ type; throws GSTK_ERROR_ARGUMENT for an unknown dtype.
template <class What>
decltype(auto) with_type(gstk_dtype dtype, What&& what) {
    switch (dtype) {
        case GSTK_UINT8:
            return what(static_cast<const std::uint8_t*>(nullptr));
        case GSTK_INT8:
            return what(static_cast<const std::int8_t*>(nullptr));
        case GSTK_UINT16:
            return what(static_cast<const std::uint16_t*>(nullptr));
        case GSTK_INT16:
            return what(static_cast<const std::int16_t*>(nullptr));
        case GSTK_UINT32:
            return what(static_cast<const std::uint32_t*>(nullptr));
        case GSTK_INT32:
            return what(static_cast<const std::int32_t*>(nullptr));
        case GSTK_UINT64:
            return what(static_cast<const std::uint64_t*>(nullptr));
        case GSTK_INT64:
            return what(static_cast<const std::int64_t*>(nullptr));
        case GSTK_FLOAT32:
            return what(static_cast<const float*>(nullptr));
        case GSTK_FLOAT64:
            return what(static_cast<const double*>(nullptr));
    }
    throw error(GSTK_ERROR_ARGUMENT, "got dtype ", static_cast<int>(dtype), ", expected one of gstk_dtype");
}

struct Volume {
    Geometry geometry;
    gstk_dtype dtype;
    std::shared_ptr<const void> voxels;  // frees or releases what it points to
    std::string nifti_header = "";       // of the file it was read from, empty elsewhere
    std::string units = "";              // "HU"; "0-255" for intensities that were windowed already; empty: not known
    std::string modality = "";           // of DICOM, such as "CT"; empty where it is not known
    bool has_orientation = false;        // whether the geometry's direction and origin are known
    std::string name = "the image";      // for messages
    std::vector<std::string> notes{};    // what is odd about its file, a sentence each

    std::int64_t count() const { return count_of(geometry.shape()); }

    // Throws GSTK_ERROR_CASE where a voxel is NaN or infinite.
    void require_finite() const;

    // Calls `what` with the voxels as their own type.
    template <class What>
    decltype(auto) visit(What&& what) const {
        return with_type(dtype, [&](auto* typed) { return what(static_cast<decltype(typed)>(voxels.get())); });
    }
};

}  // namespace gstk::impl
