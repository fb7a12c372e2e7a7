#include "resampling.hpp"

#include <algorithm>
#include <limits>
#include <numeric>
#include <type_traits>

namespace gstk::impl {
namespace {

constexpr std::int64_t kSlabVoxels = 1 << 22;  // of a large volume, so many are looked at at a time

// One axis of a resampling, for volumes seen as [outer, axis, inner].
Grid<float> along(const Grid<float>& in, int axis, const AxisWeights& w) {
    Shape shape = in.shape;
    const std::int64_t n_in = shape[axis], n_out = static_cast<std::int64_t>(w.first.size());
    shape[axis] = n_out;
    Grid<float> out(shape);
    std::int64_t outer = 1, inner = 1;
    for (int a = 0; a < axis; ++a) outer *= shape[a];
    for (int a = axis + 1; a < 3; ++a) inner *= shape[a];
    for (std::int64_t o = 0; o < outer; ++o) {
        const float* source = in.values.data() + o * n_in * inner;
        float* target = out.values.data() + o * n_out * inner;
        for (std::int64_t i = 0; i < n_out; ++i) {
            const float* weights = w.weights.data() + i * w.width;
            if (inner == 1) {  // along a line the sum stays in a register
                const float* from = source + w.first[static_cast<std::size_t>(i)];
                target[i] = std::inner_product(weights, weights + w.width, from, 0.0f);
                continue;
            }
            for (std::int64_t k = 0; k < w.width; ++k) {
                const float weight = weights[k];
                if (weight == 0) continue;
                const float* from = source + (w.first[static_cast<std::size_t>(i)] + k) * inner;
                float* to = target + i * inner;
                for (std::int64_t x = 0; x < inner; ++x) to[x] += weight * from[x];
            }
        }
    }
    return out;
}

}  // namespace

Grid<float> sample(const Volume& volume, const Region& part, const IntensityRange& range, const Triple& start,
                   const Triple& step, const Shape& shape) {
    const Shape given = part.shape();
    const auto shrinks = [&](std::size_t a) { return static_cast<double>(shape[a]) / static_cast<double>(given[a]); };
    std::size_t first = 0;
    for (std::size_t a = 1; a < 3; ++a)
        if (shrinks(a) < shrinks(first)) first = a;
    const std::int64_t slabs = (count_of(given) + kSlabVoxels - 1) / kSlabVoxels;
    if (slabs == 1 || shape[first] >= given[first])
        return resample(normalise(volume, part, range), start, step, shape, Outside::kZero);
    // The axis that shrinks most goes first; slabs lie across another.
    const std::size_t along = first == 0 ? 1 : 0;
    const std::int64_t parts = std::min(slabs, given[along]);
    Shape reduced = given;
    reduced[first] = shape[first];
    Grid<float> whole(reduced);
    Triple start_first{}, step_first{1, 1, 1}, start_rest = start, step_rest = step;
    start_first[first] = start[first];
    step_first[first] = step[first];
    start_rest[first] = 0;
    step_rest[first] = 1;
    for (std::int64_t slab = 0; slab < parts; ++slab) {
        const auto at = [&](std::int64_t n) { return given[along] * n / parts; };
        Region of_slab = part;
        of_slab.start[along] = part.start[along] + at(slab);
        of_slab.stop[along] = part.start[along] + at(slab + 1);
        Shape sides = of_slab.shape();
        sides[first] = shape[first];
        const Grid<float> found =
            resample(normalise(volume, of_slab, range), start_first, step_first, sides, Outside::kZero);
        for (std::int64_t z = 0; z < sides[0]; ++z)
            for (std::int64_t y = 0; y < sides[1]; ++y) {
                const std::int64_t down = at(slab);
                std::copy_n(found.line(z, y), sides[2],
                            along == 0 ? whole.line(z + down, y) : whole.line(z, y + down));
            }
    }
    return resample(std::move(whole), start_rest, step_rest, shape, Outside::kZero);
}

Grid<float> normalise(const Volume& volume, const Region& part, const IntensityRange& range) {
    Grid<float> result(part.shape());
    if (!(range.high > range.low)) return result;
    const double width = range.high - range.low;
    const auto scale =
        static_cast<float>(std::min(1.0 / width, static_cast<double>(std::numeric_limits<float>::max())));
    const auto low = static_cast<float>(range.low);
    const Shape& whole = volume.geometry.shape();
    volume.visit([&](auto* data) {
        using T = std::remove_const_t<std::remove_pointer_t<decltype(data)>>;
        const auto scaled = [&](T value) {
            // In float all numbers of a wide type could be the same.
            if constexpr (std::is_same_v<T, double> || (std::is_integral_v<T> && sizeof(T) > 2))
                return static_cast<float>(std::min(std::max((static_cast<double>(value) - range.low) / width, 0.0), 1.0));
            else
                return std::min(std::max((static_cast<float>(value) - low) * scale, 0.0f), 1.0f);
        };
        for (std::int64_t z = 0; z < result.shape[0]; ++z)
            for (std::int64_t y = 0; y < result.shape[1]; ++y) {
                const T* from = data + ((part.start[0] + z) * whole[1] + part.start[1] + y) * whole[2] + part.start[2];
                std::transform(from, from + result.shape[2], result.line(z, y), scaled);
            }
    });
    return result;
}

AxisWeights axis_weights(std::int64_t n_in, std::int64_t n_out, double start, double step, Outside outside) {
    const double half = std::max(step, 1.0);
    const auto taps = static_cast<std::int64_t>(std::ceil(2 * half)) + 1;
    const std::int64_t width = std::min(taps, n_in);
    AxisWeights result{width, {}, {}};
    result.first.resize(static_cast<std::size_t>(n_out));
    result.weights.assign(static_cast<std::size_t>(n_out * width), 0.0f);
    std::vector<double> row(static_cast<std::size_t>(taps)), gathered(static_cast<std::size_t>(width));
    for (std::int64_t i = 0; i < n_out; ++i) {
        const double centre = start + (static_cast<double>(i) + 0.5) * step - 0.5;
        const auto first = static_cast<std::int64_t>(std::floor(centre - half)) + 1;
        double sum = 0;
        for (std::int64_t k = 0; k < taps; ++k) {
            const double weight = std::max(0.0, 1.0 - std::abs(static_cast<double>(first + k) - centre) / half);
            sum += row[static_cast<std::size_t>(k)] = weight;
        }
        // The taps inside the input, those beyond it dropped or gathered on its first or last voxel.
        const std::int64_t base = std::clamp<std::int64_t>(first, 0, n_in - width);
        std::fill(gathered.begin(), gathered.end(), 0.0);
        for (std::int64_t k = 0; k < taps; ++k) {
            const std::int64_t index = first + k, nearest = std::clamp<std::int64_t>(index, 0, n_in - 1);
            if (index != nearest && outside == Outside::kZero) continue;
            gathered[static_cast<std::size_t>(nearest - base)] += row[static_cast<std::size_t>(k)] / sum;
        }
        result.first[static_cast<std::size_t>(i)] = base;
        for (std::int64_t k = 0; k < width; ++k)
            result.weights[static_cast<std::size_t>(i * width + k)] =
                static_cast<float>(gathered[static_cast<std::size_t>(k)]);
    }
    return result;
}

Grid<float> resample(Grid<float> volume, const Triple& start, const Triple& step, const Shape& shape, Outside outside) {
    const Shape original = volume.shape;
    std::array<int, 3> order{0, 1, 2};
    // Axes that shrink most go first, so that the others have less to do.
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
        return static_cast<double>(shape[a]) / static_cast<double>(original[a]) <
               static_cast<double>(shape[b]) / static_cast<double>(original[b]);
    });
    for (const int a : order) {
        if (start[a] == 0 && step[a] == 1 && shape[a] == original[a]) continue;
        volume = along(volume, a, axis_weights(original[a], shape[a], start[a], step[a], outside));
    }
    return volume;
}

}  // namespace gstk::impl
