// Arrays of numbers in .npz files, stored or deflated. Object arrays are pickles and are never opened.
#pragma once

#include <string>
#include <vector>

#include "volume.hpp"

namespace gstk::impl {

struct Array {
    gstk_dtype dtype;
    std::vector<std::int64_t> shape;
    std::vector<char> bytes;  // x fastest, of this machine's byte order; booleans come as uint8, float16 as float32
};

// Throws GSTK_ERROR_CASE where the file is no .npz, lacks the array, or the array is damaged or not of numbers.
Array read_array(const std::string& path, const std::string& key);

bool has_array(const std::string& path, const std::string& key);

// The .npy format alone, as it lies inside the archive. `where` is named in messages.
Array parse_npy(const std::vector<char>& npy, const std::string& where);

// Writes one array; throws GSTK_ERROR_OUTPUT. The file must not be visible to readers yet.
void write_array(const std::string& path, const std::string& key, const Array& array);

}  // namespace gstk::impl
