#include "image_fields.hpp"

#include <algorithm>

namespace gstk::impl {
namespace {

// Lines that are swept side by side: each waits for its own last step, and not for the others.
constexpr std::int64_t kLines = 8;

// What a step from the voxels of one row to those of another leaves of the distances there.
void step(float* to, const float* from, const float* to_cost, const float* from_cost, std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) to[i] = std::min(to[i], from[i] + (to_cost[i] + from_cost[i]) * 0.5f);
}

template <std::int64_t Lines>
void along_lines(float* distances, const float* cost, std::int64_t count) {
    std::array<float, Lines> last{};
    for (std::int64_t n = 0; n < Lines; ++n) last[n] = distances[n * count];
    for (std::int64_t i = 1; i < count; ++i)
        for (std::int64_t n = 0; n < Lines; ++n) {
            const std::int64_t at = n * count + i;
            distances[at] = last[n] = std::min(distances[at], last[n] + (cost[at] + cost[at - 1]) * 0.5f);
        }
    for (std::int64_t i = count - 2; i >= 0; --i)
        for (std::int64_t n = 0; n < Lines; ++n) {
            const std::int64_t at = n * count + i;
            distances[at] = last[n] = std::min(distances[at], last[n] + (cost[at + 1] + cost[at]) * 0.5f);
        }
}

// Along y and x, in one plane.
void along_plane(float* distances, const float* cost, std::int64_t y, std::int64_t x) {
    for (std::int64_t i = x; i < y * x; i += x) step(distances + i, distances + i - x, cost + i, cost + i - x, x);
    for (std::int64_t i = (y - 2) * x; i >= 0; i -= x)
        step(distances + i, distances + i + x, cost + i, cost + i + x, x);
    std::int64_t line = 0;
    for (; line + kLines <= y; line += kLines) along_lines<kLines>(distances + line * x, cost + line * x, x);
    for (; line < y; ++line) along_lines<1>(distances + line * x, cost + line * x, x);
}

}  // namespace

void squared_gradient(const float* values, const Shape& shape, std::int64_t z, float* to) {
    const std::int64_t y = shape[1], x = shape[2], size = y * x;
    const auto weight = [](bool inside) { return inside ? 0.5f : 1.0f; };
    const float* plane = values + z * size;
    const float* before = z > 0 ? plane - size : plane;
    const float* after = z + 1 < shape[0] ? plane + size : plane;
    const float along_z = weight(z > 0 && z + 1 < shape[0]);
    for (std::int64_t i = 0; i < size; ++i) {
        const float change = (after[i] - before[i]) * along_z;
        to[i] = change * change;
    }
    for (std::int64_t row = 0; row < y; ++row) {
        const float* line = plane + row * x;
        float* sums = to + row * x;
        before = row > 0 ? line - x : line;
        after = row + 1 < y ? line + x : line;
        const float along_y = weight(row > 0 && row + 1 < y);
        for (std::int64_t i = 0; i < x; ++i) {
            const float change = (after[i] - before[i]) * along_y;
            sums[i] += change * change;
        }
        for (std::int64_t i = 1; i + 1 < x; ++i) {
            const float change = (line[i + 1] - line[i - 1]) * 0.5f;
            sums[i] += change * change;
        }
        const float first = line[1] - line[0], last = line[x - 1] - line[x - 2];
        sums[0] += first * first;
        sums[x - 1] += last * last;
    }
}

void distances_from(const Grid<std::uint8_t>& seeds, const float* cost, int sweeps, float* distances) {
    const std::int64_t z = seeds.shape[0], y = seeds.shape[1], x = seeds.shape[2], size = y * x;
    std::transform(seeds.values.begin(), seeds.values.end(), distances,
                   [](std::uint8_t seed) { return seed ? 0.0f : kFar; });
    const auto plane = [&](std::int64_t i) { return distances + i * size; };
    for (int sweep = 0; sweep < sweeps; ++sweep) {
        for (std::int64_t i = 1; i < z; ++i) step(plane(i), plane(i - 1), cost + i * size, cost + (i - 1) * size, size);
        // A plane has to be as the way along z left it until the one before it has seen it.
        for (std::int64_t i = z - 2; i >= 0; --i) {
            step(plane(i), plane(i + 1), cost + i * size, cost + (i + 1) * size, size);
            along_plane(plane(i + 1), cost + (i + 1) * size, y, x);
        }
        along_plane(plane(0), cost, y, x);
    }
}

}  // namespace gstk::impl
