// manifest.json and the check of every field: a manifest is input, it may come from anywhere. Mirrors
// gstk.core.manifest.
#pragma once

#include <map>
#include <string>

#include "geometry.hpp"
#include "profile.hpp"

namespace gstk::impl {

struct GraphFile {
    std::string sha256;  // 64 lower-case hexadecimal digits
    std::uint64_t size_bytes = 0;
};

struct RoiRules {
    std::int64_t multiple = 0, minimum = 0;
    Shape default_shape{};
    std::int64_t max_voxels = 0;
};

struct Manifest {
    std::string name;
    std::map<std::string, std::map<std::string, std::string>> graphs;  // kind → precision → file name
    std::map<std::string, GraphFile> files;
    std::string vectors;  // file of the test vectors; empty for none
    RoiRules roi;
    Profile profile;
    bool refine = false;  // sessions let the image correct the network's logits
    bool zero_shot = false;       // the decoder takes the labels 4 and 5, of objects that are of no trained class
    bool ignored_points = false;  // the decoder takes the label -2, of points that it ignores

    // Throws GSTK_ERROR_BUNDLE where the text is not JSON, the schema is unknown, or a field is missing, of the wrong
    // type or out of its range. `place` is named in the message.
    static Manifest parse(const std::string& json_text, const std::string& place);
};

// Throws GSTK_ERROR_BUNDLE unless a name is a plain relative path with forward slashes.
void check_name(const std::string& name);

}  // namespace gstk::impl
