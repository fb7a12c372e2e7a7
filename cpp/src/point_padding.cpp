#include "point_padding.hpp"

#include <algorithm>

namespace gstk::impl {

std::int64_t padded_count(std::int64_t points) {
    for (std::int64_t power = 4;; power *= 2)
        for (const auto count : {power, power + power / 2})
            if (points <= count) return count;
}

PaddedPoints pad_points(const float* coords, const std::int64_t* labels, std::int64_t objects, std::int64_t points,
                        std::int64_t most) {
    PaddedPoints padded;
    padded.points = std::min(padded_count(points), most);
    padded.coords.assign(static_cast<std::size_t>(3 * objects * padded.points), 0);
    padded.labels.assign(static_cast<std::size_t>(objects * padded.points), kIgnored);
    for (std::int64_t b = 0; b < objects; ++b) {
        std::copy_n(coords + 3 * b * points, 3 * points, padded.coords.begin() + 3 * b * padded.points);
        std::copy_n(labels + b * points, points, padded.labels.begin() + b * padded.points);
    }
    return padded;
}

}  // namespace gstk::impl
