// Padding with ignored points, so that a backend sees only a few different numbers of points. Mirrors
// gstk.engines.point_padding, which says why.
#pragma once

#include <cstdint>
#include <vector>

namespace gstk::impl {

constexpr std::int64_t kIgnored = -2;  // label of a point that a decoder ignores

// How many points a decode of so many is given: 4, 6, 8, 12, 16, 24, ...
std::int64_t padded_count(std::int64_t points);

// Coords [B,N,3] and labels [B,N] of objects, with ignored points behind them.
struct PaddedPoints {
    std::vector<float> coords;
    std::vector<std::int64_t> labels;
    std::int64_t points = 0;  // N
};

// most: the largest number of points that the backend takes.
PaddedPoints pad_points(const float* coords, const std::int64_t* labels, std::int64_t objects, std::int64_t points,
                        std::int64_t most = INT64_MAX);

}  // namespace gstk::impl
