// The input profile of a manifest: what the network's input is. Mirrors gstk.core.profile and gstk.core.class_table.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "geometry.hpp"
#include "json_fields.hpp"

namespace gstk::impl {

struct Profile {
    std::string name;
    std::string source = "case";  // of intensities: case, hounsfield, file
    bool has_range = false;
    std::pair<double, double> range{0, 1}, percentiles{1, 99};
    std::string scope = "volume";
    std::string orientation = "stored", order = "zyx";
    std::string spacing = "session";  // native, session or mm
    double spacing_mm = 0;            // above 0 where spacing is mm
    std::optional<std::int64_t> crop_margin;
    std::string projection = "linear";  // of masks to the volume: linear, nearest
    Shape patch{};                      // in the network's axes
    std::vector<std::string> branches{"points"};

    // From schema 2. Throws the file's code where a field is unknown, missing, wrong, or does not go with another.
    static Profile parse(const Fields& fields);

    // From `preprocessing` and `special_classes` of schema 1.
    static Profile parse_schema_1(const Fields& manifest, const Shape& patch);

    // Throws GSTK_ERROR_PROMPT where the network was not trained on points.
    void require_points() const;
};

}  // namespace gstk::impl
