// The bytes of a NIfTI header, read and written field by field: NIfTI-1 or NIfTI-2, of either byte order.
#pragma once

#include <algorithm>
#include <cstring>
#include <string>

#include "error.hpp"

namespace gstk::impl {

// Where NIfTI-1 and NIfTI-2 have a field: its type as Python's `struct` names it, and its first byte.
struct NiftiField {
    char first_type;
    std::size_t first;
    char second_type;
    std::size_t second;
};

namespace nifti {
constexpr NiftiField kDim{'h', 40, 'q', 16}, kDatatype{'h', 70, 'h', 12}, kBitpix{'h', 72, 'h', 14},
    kPixdim{'f', 76, 'd', 104}, kOffset{'f', 108, 'q', 168}, kScale{'f', 112, 'd', 176}, kDisplay{'f', 124, 'd', 192},
    kCodes{'h', 252, 'i', 344}, kQuaternion{'f', 256, 'd', 352}, kSform{'f', 280, 'd', 400}, kUnits{'b', 123, 'i', 500};
constexpr std::size_t kSize1 = 348, kSize2 = 540;
}  // namespace nifti

class NiftiHeader {
  public:
    // From the first bytes of a file, at least 540 where there are as many. Throws GSTK_ERROR_CASE where they begin no
    // NIfTI file with its voxels inside.
    NiftiHeader(const std::string& bytes, const std::string& where);
    // One without anything in it, of this machine's byte order.
    static NiftiHeader fresh(bool second);

    const std::string& bytes() const { return bytes_; }
    bool is_swapped() const { return swapped_; }
    double get(const NiftiField& field, std::size_t index = 0) const;
    void set(const NiftiField& field, double value, std::size_t index = 0);

  private:
    NiftiHeader() = default;
    bool is_second() const { return bytes_.size() == nifti::kSize2; }

    std::string bytes_;
    bool swapped_ = false;
};

}  // namespace gstk::impl
