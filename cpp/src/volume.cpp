#include "volume.hpp"

#include <type_traits>

namespace gstk::impl {

std::size_t size_of(gstk_dtype dtype) {
    return with_type(dtype, [](auto* typed) { return sizeof(*typed); });
}

void Volume::require_finite() const {
    const auto voxel_count = count();
    const bool finite = visit([&](auto* data) {
        if constexpr (std::is_floating_point_v<std::remove_reference_t<decltype(*data)>>) {
            for (std::int64_t i = 0; i < voxel_count; ++i)
                if (!std::isfinite(data[i])) return false;
        }
        return true;
    });
    if (!finite)
        throw error(GSTK_ERROR_CASE, "got an image with NaN or infinity, expected finite numbers; replace them first");
}

}  // namespace gstk::impl
