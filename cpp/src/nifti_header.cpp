#include "nifti_header.hpp"

#include <cstdint>

namespace gstk::impl {
namespace {

template <class T>
T load(const std::string& bytes, std::size_t offset, bool swapped) {
    char own[sizeof(T)];
    std::memcpy(own, bytes.data() + offset, sizeof(T));
    if (swapped) std::reverse(own, own + sizeof(T));
    T value;
    std::memcpy(&value, own, sizeof(T));
    return value;
}

template <class T>
void store(std::string& bytes, std::size_t offset, T value, bool swapped) {
    char own[sizeof(T)];
    std::memcpy(own, &value, sizeof(T));
    if (swapped) std::reverse(own, own + sizeof(T));
    std::memcpy(bytes.data() + offset, own, sizeof(T));
}

// Calls `what` with a value of the type, and with the field's offset at an index.
template <class What>
decltype(auto) with_field(const NiftiField& field, bool second, std::size_t index, What&& what) {
    const std::size_t offset = second ? field.second : field.first;
    switch (second ? field.second_type : field.first_type) {
        case 'b':
            return what(std::int8_t{}, offset + index);
        case 'h':
            return what(std::int16_t{}, offset + 2 * index);
        case 'i':
            return what(std::int32_t{}, offset + 4 * index);
        case 'q':
            return what(std::int64_t{}, offset + 8 * index);
        case 'f':
            return what(float{}, offset + 4 * index);
        default:
            return what(double{}, offset + 8 * index);
    }
}

}  // namespace

NiftiHeader::NiftiHeader(const std::string& bytes, const std::string& where) {
    const struct {
        std::size_t size, place;
        const char* magic;
    } kinds[] = {{nifti::kSize1, 344, "n+1"}, {nifti::kSize2, 4, "n+2"}};
    for (const auto& kind : kinds)
        for (const bool swapped : {false, true})
            if (bytes.size() >= kind.size && std::memcmp(bytes.data() + kind.place, kind.magic, 4) == 0 &&
                load<std::int32_t>(bytes, 0, swapped) == static_cast<std::int32_t>(kind.size)) {
                bytes_ = bytes.substr(0, kind.size);
                swapped_ = swapped;
                return;
            }
    throw error(GSTK_ERROR_CASE, where, " is no NIfTI file with its voxels inside, or truncated; convert it to .nii.gz");
}

NiftiHeader NiftiHeader::fresh(bool second) {
    NiftiHeader header;
    header.bytes_.assign(second ? nifti::kSize2 : nifti::kSize1, '\0');
    store(header.bytes_, 0, static_cast<std::int32_t>(header.bytes_.size()), false);
    if (second)
        std::memcpy(header.bytes_.data() + 4, "n+2\0\r\n\x1a\n", 8);
    else
        std::memcpy(header.bytes_.data() + 344, "n+1", 4);
    return header;
}

double NiftiHeader::get(const NiftiField& field, std::size_t index) const {
    return with_field(field, is_second(), index, [&](auto type, std::size_t offset) {
        return static_cast<double>(load<decltype(type)>(bytes_, offset, swapped_));
    });
}

void NiftiHeader::set(const NiftiField& field, double value, std::size_t index) {
    with_field(field, is_second(), index, [&](auto type, std::size_t offset) {
        store(bytes_, offset, static_cast<decltype(type)>(value), swapped_);
    });
}

}  // namespace gstk::impl
