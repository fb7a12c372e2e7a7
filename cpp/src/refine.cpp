#include "refine.hpp"

#include <algorithm>
#include <cmath>
#include <future>

#include "masks.hpp"

namespace gstk::impl {
namespace {

using Field = Grid<float>;
using Mask = Grid<std::uint8_t>;
using Shares = std::vector<double>;

// What each is, gstk.refine says.
constexpr float kMostLogit = 6, kTrust = 0.75f, kTrustWithBox = 0.5f;
constexpr float kBoxWeight = 6, kLeastBox = -3, kSurroundings = 1.5f, kBeyond = 1.15f;
constexpr float kPathWeight = 8, kEdge = 0.05f, kFlat = 0.02f, kFar = 1e6f;
constexpr int kSweeps = 2;
constexpr float kLooksWeight = 2, kMostLooks = 3;
constexpr int kLooksRounds = 2;
constexpr int kBrightnessBins = 24, kTextureBins = 12, kBins = kBrightnessBins * kTextureBins;
constexpr double kClickedShare = 0.3, kEvenShare = 0.1;
constexpr double kCoarse = 1.4;
constexpr std::int64_t kMostFiner = 3, kFineVoxels = 2'200'000, kRim = 2;
constexpr std::array<double, 5> kBinomial{1 / 16.0, 4 / 16.0, 6 / 16.0, 4 / 16.0, 1 / 16.0};

// Calls `what` with the first index, the stride and the count of every line along an axis.
template <class What>
void each_line(const Shape& shape, int axis, What&& what) {
    const std::array<std::int64_t, 3> strides{shape[1] * shape[2], shape[2], 1};
    const int other = axis == 0 ? 1 : 0, last = axis == 2 ? 1 : 2;
    for (std::int64_t i = 0; i < shape[other]; ++i)
        for (std::int64_t j = 0; j < shape[last]; ++j)
            what(static_cast<std::size_t>(i * strides[other] + j * strides[last]),
                 static_cast<std::size_t>(strides[axis]), static_cast<std::size_t>(shape[axis]));
}

// Mean of three voxels a side, those at the faces taken twice.
Field mean3(const Field& given) {
    constexpr float kThird = static_cast<float>(1.0 / 3.0);
    Field values = given, sums(given.shape);
    for (int axis = 0; axis < 3; ++axis) {
        each_line(given.shape, axis, [&](std::size_t first, std::size_t stride, std::size_t count) {
            const float* from = values.values.data() + first;
            float* to = sums.values.data() + first;
            for (std::size_t i = 0; i < count; ++i) {
                const float before = from[(i ? i - 1 : 0) * stride];
                const float after = from[(i + 1 < count ? i + 1 : i) * stride];
                to[i * stride] = (from[i * stride] + before + after) * kThird;
            }
        });
        std::swap(values, sums);
    }
    return values;
}

// Three voxels a side around each point.
Mask around(const Shape& shape, const std::vector<Triple>& points) {
    Mask mask(shape);
    for (const auto& point : points) {
        Voxel low{}, high{};
        for (int a = 0; a < 3; ++a) {
            const double last = static_cast<double>(shape[a] - 1);
            const auto at = static_cast<std::int64_t>(std::min(std::max(std::nearbyint(point[a]), 0.0), last));
            low[a] = std::max<std::int64_t>(0, at - 1);
            high[a] = std::min(shape[a], at + 2);
        }
        for (auto z = low[0]; z < high[0]; ++z)
            for (auto y = low[1]; y < high[1]; ++y)
                std::fill(mask.line(z, y) + low[2], mask.line(z, y) + high[2], std::uint8_t{1});
    }
    return mask;
}

bool any(const Mask& mask) {
    return std::any_of(mask.values.begin(), mask.values.end(), [](std::uint8_t v) { return v != 0; });
}

// What a step along an axis costs, kept at the voxel that it leads from.
Field cost_of_steps(const Field& cost, int axis) {
    Field steps(cost.shape);
    each_line(cost.shape, axis, [&](std::size_t first, std::size_t stride, std::size_t count) {
        for (std::size_t i = 0; i + 1 < count; ++i) {
            const std::size_t at = first + i * stride;
            steps.values[at] = (cost.values[at + stride] + cost.values[at]) * 0.5f;
        }
    });
    return steps;
}

Field distance_from(const Mask& seeds, const std::array<Field, 3>& steps) {
    Field distance(seeds.shape);
    std::transform(seeds.values.begin(), seeds.values.end(), distance.values.begin(),
                   [](std::uint8_t seed) { return seed ? 0.0f : kFar; });
    // Whole rows at a time, though lines are what is swept along: memory is read in its order.
    const auto sweep = [&](std::size_t blocks, std::size_t count, std::size_t row, const Field& cost) {
        for (std::size_t block = 0; block < blocks; ++block) {
            float* line = distance.values.data() + block * count * row;
            const float* step = cost.values.data() + block * count * row;
            for (std::size_t i = row; i < count * row; ++i) line[i] = std::min(line[i], line[i - row] + step[i - row]);
            for (std::size_t i = (count - 1) * row; i >= row; i -= row)
                for (std::size_t j = i - row; j < i; ++j) line[j] = std::min(line[j], line[j + row] + step[j]);
        }
    };
    const auto z = static_cast<std::size_t>(seeds.shape[0]), y = static_cast<std::size_t>(seeds.shape[1]),
               x = static_cast<std::size_t>(seeds.shape[2]);
    for (int again = 0; again < kSweeps; ++again) {
        sweep(1, z, y * x, steps[0]);
        sweep(z, y, x, steps[1]);
        sweep(z * y, x, 1, steps[2]);
    }
    return distance;
}

// Adds to `total`: the weight at the inner seeds, less it at the outer ones, between them by the ratio of the distances.
void add_nearness(const Field& smooth, const Mask& inner, const Mask& outer, Field& total) {
    if (!any(inner) || !any(outer)) return;
    Field cost(smooth.shape);
    for (int axis = 0; axis < 3; ++axis)
        each_line(smooth.shape, axis, [&](std::size_t first, std::size_t stride, std::size_t count) {
            const float* from = smooth.values.data() + first;
            for (std::size_t i = 0; i < count; ++i) {
                const bool inside = i > 0 && i + 1 < count;
                const float after = from[(i + 1 < count ? i + 1 : i) * stride], before = from[(i ? i - 1 : 0) * stride];
                const float change = inside ? (after - before) * 0.5f : after - before;
                cost.values[first + i * stride] += change * change;
            }
        });
    constexpr float kSteep = 1 / (kEdge * kEdge);
    for (float& value : cost.values) value = value * kSteep + kFlat;
    const std::array<Field, 3> steps{cost_of_steps(cost, 0), cost_of_steps(cost, 1), cost_of_steps(cost, 2)};
    auto beside = std::async(std::launch::async, [&] { return distance_from(outer, steps); });
    const Field near = distance_from(inner, steps), far = beside.get();
    for (std::size_t i = 0; i < total.values.size(); ++i) {
        const float from = far.values[i], to = near.values[i];
        total.values[i] += kPathWeight * ((from - to) / (from + to));
    }
}

std::size_t bin(float value, int count) {
    return static_cast<std::size_t>(
        std::min<std::int64_t>(static_cast<std::int64_t>(value * static_cast<float>(count)), count - 1));
}

void make_shares(Shares& counts) {
    double sum = 0;
    for (const double count : counts) sum += count;
    for (double& count : counts) count /= std::max(sum, 1e-6);
}

// Smooths a histogram along brightness (stride kTextureBins) or texture (stride 1).
Shares smoothed(const Shares& given, bool along_texture) {
    const int count = along_texture ? kTextureBins : kBrightnessBins, others = kBins / count;
    const int stride = along_texture ? 1 : kTextureBins, next = along_texture ? kTextureBins : 1;
    Shares result(given.size());
    for (int line = 0; line < others; ++line)
        for (int i = 0; i < count; ++i) {
            double sum = 0;
            for (int k = -2; k <= 2; ++k) {
                const int from = std::min(std::max(i + k, 0), count - 1);
                sum += kBinomial[static_cast<std::size_t>(k + 2)] *
                       given[static_cast<std::size_t>(line * next + from * stride)];
            }
            result[static_cast<std::size_t>(line * next + i * stride)] = sum;
        }
    return result;
}

Shares histogram(const std::vector<std::size_t>& looks, const std::vector<float>& weights, const Mask& clicked) {
    Shares shares(kBins), around_clicks(kBins);
    for (std::size_t i = 0; i < looks.size(); ++i) {
        shares[looks[i]] += static_cast<double>(weights[i]);
        if (clicked.values[i]) around_clicks[looks[i]] += 1;
    }
    make_shares(shares);
    if (any(clicked)) {
        make_shares(around_clicks);
        for (std::size_t i = 0; i < shares.size(); ++i) shares[i] += kClickedShare * around_clicks[i];
        make_shares(shares);
    }
    shares = smoothed(smoothed(shares, false), true);
    make_shares(shares);
    for (double& share : shares) share += kEvenShare / kBins;
    return shares;
}

// Squared distances from a box's middle along one axis, in half sides.
std::vector<float> squared_radii(std::int64_t count, double low, double high) {
    const double half = std::max((high - low) / 2, 0.5);
    std::vector<float> radii;
    for (std::int64_t i = 0; i < count; ++i) {
        const double radius = (static_cast<double>(i) - (low + high) / 2) / half;
        radii.push_back(static_cast<float>(radius * radius));
    }
    return radii;
}

// Calls `what` with the index of each voxel and its squared distances, along each axis, from a box's middle.
template <class What>
void each_radius(const Shape& shape, const Faces& box, What&& what) {
    std::array<std::vector<float>, 3> radii;
    for (std::size_t a = 0; a < 3; ++a) radii[a] = squared_radii(shape[a], box.low[a], box.high[a]);
    std::size_t i = 0;
    for (const float z : radii[0])
        for (const float y : radii[1])
            for (const float x : radii[2]) what(i++, z, y, x);
}

// Takes back what a box says around clicks that say the opposite: 0 there, as before far away.
void give_in(const Faces& box, const std::vector<Triple>& points, bool foreground, Field& prior) {
    for (const auto& point : points) {
        Voxel at{};
        for (int a = 0; a < 3; ++a) {
            const double last = static_cast<double>(prior.shape[a] - 1);
            at[a] = static_cast<std::int64_t>(std::min(std::max(std::nearbyint(point[a]), 0.0), last));
        }
        const float said = prior.values[prior.index(at)];
        if ((said > 0) == foreground) continue;
        Triple half{};
        double radius2 = 0;
        for (std::size_t a = 0; a < 3; ++a) {
            half[a] = std::max((box.high[a] - box.low[a]) / 2, 0.5);
            const double away = (point[a] - (box.low[a] + box.high[a]) / 2) / half[a];
            radius2 += away * away;
        }
        Faces around{point, point};
        for (std::size_t a = 0; a < 3; ++a) {
            const double width = half[a] * std::abs(1 - std::sqrt(radius2));
            around.low[a] -= width;
            around.high[a] += width;
        }
        each_radius(prior.shape, around, [&](std::size_t i, float z, float y, float x) {
            prior.values[i] -= said * std::exp(-(z + y + x));
        });
    }
}

// Adds the box's weight to `total`, and finds what is near it and what is beyond.
void add_box(const Faces& box, const Hints& hints, Field& total, Mask& near, Mask& beyond) {
    Field prior(total.shape);
    each_radius(total.shape, box, [&](std::size_t i, float z, float y, float x) {
        const float farthest2 = std::max(std::max(z, y), x);
        prior.values[i] = std::max(1 - (z + y + x), kLeastBox);
        near.values[i] = farthest2 < kSurroundings * kSurroundings;
        beyond.values[i] = farthest2 > kBeyond * kBeyond;
    });
    give_in(box, hints.on, true, prior);
    give_in(box, hints.off, false, prior);
    for (std::size_t i = 0; i < prior.values.size(); ++i) total.values[i] += kBoxWeight * prior.values[i];
}

// Where the network sees no object on the faces of the window.
Mask outer_faces(const Field& logits) {
    Mask mask(logits.shape);
    const Shape& shape = logits.shape;
    for (std::int64_t z = 0; z < shape[0]; ++z)
        for (std::int64_t y = 0; y < shape[1]; ++y)
            for (std::int64_t x = 0; x < shape[2]; ++x) {
                const bool face = z == 0 || y == 0 || x == 0 || z == shape[0] - 1 || y == shape[1] - 1 ||
                                  x == shape[2] - 1;
                const std::size_t i = logits.index(z, y, x);
                mask.values[i] = face && logits.values[i] < 0;
            }
    return mask;
}

}  // namespace

FinePart fine_part(const Geometry& geometry, const Window& window, const Hints& hints) {
    const FinePart whole{{{}, window.shape}, 1};
    const Triple& spacing = geometry.spacing_mm();
    const double coarser = window.side_mm(geometry) / *std::min_element(spacing.begin(), spacing.end());
    if (coarser < kCoarse) return whole;
    FinePart found = whole;
    if (hints.box)
        for (int a = 0; a < 3; ++a) {
            const double middle = (hints.box->low[a] + hints.box->high[a]) / 2;
            const double half = (hints.box->high[a] - hints.box->low[a]) / 2;
            double low = middle - kSurroundings * half, high = middle + kSurroundings * half;
            for (const auto& point : hints.on) {
                low = std::min(low, point[a]);
                high = std::max(high, point[a]);
            }
            const auto first = static_cast<std::int64_t>(std::floor(low)) - kRim;
            const auto last = static_cast<std::int64_t>(std::ceil(high)) + kRim + 1;
            found.voxels.start[a] = std::max<std::int64_t>(0, first);
            found.voxels.stop[a] = std::min(window.shape[a], last);
        }
    const std::int64_t voxels = count_of(found.voxels.shape());
    found.finer = std::min(kMostFiner, static_cast<std::int64_t>(std::nearbyint(coarser)));
    while (found.finer > 1 && voxels * found.finer * found.finer * found.finer > kFineVoxels) --found.finer;
    return found.finer > 1 ? found : whole;
}

Grid<float> finer_grid(const Grid<float>& logits, const FinePart& part) {
    Grid<float> inner(part.voxels.shape());
    for (std::int64_t z = 0; z < inner.shape[0]; ++z)
        for (std::int64_t y = 0; y < inner.shape[1]; ++y) {
            const float* from = logits.line(z + part.voxels.start[0], y + part.voxels.start[1]);
            std::copy_n(from + part.voxels.start[2], inner.shape[2], inner.line(z, y));
        }
    const double step = 1 / static_cast<double>(part.finer);
    Shape shape = inner.shape;
    for (auto& n : shape) n *= part.finer;
    return resample(std::move(inner), {0, 0, 0}, {step, step, step}, shape, Outside::kEdge);
}

Grid<float> refine_logits(const Grid<float>& image, const Grid<float>& logits, Hints hints) {
    const std::size_t count = image.values.size();
    const float trust = hints.box ? kTrustWithBox : kTrust;
    Field total(image.shape);
    for (std::size_t i = 0; i < count; ++i)
        total.values[i] = std::min(std::max(logits.values[i], -kMostLogit), kMostLogit) * trust;
    Mask near(image.shape, 1), beyond(image.shape);
    if (hints.box) {
        Faces& box = *hints.box;
        Triple middle{};
        for (std::size_t a = 0; a < 3; ++a) middle[a] = (box.low[a] + box.high[a]) / 2;
        hints.on.push_back(middle);
        // A click on the object beyond the box shows that the box is too small.
        for (const auto& point : hints.on)
            for (std::size_t a = 0; a < 3; ++a) {
                box.low[a] = std::min(box.low[a], point[a] - 0.5);
                box.high[a] = std::max(box.high[a], point[a] + 0.5);
            }
        add_box(box, hints, total, near, beyond);
    } else {
        beyond = outer_faces(logits);
    }
    Field square = image;
    for (float& value : square.values) value *= value;
    const Field smooth = mean3(image), mean_square = mean3(square);
    const Mask inner = around(image.shape, hints.on), clicked_off = around(image.shape, hints.off);
    Mask outer(image.shape);
    std::vector<std::size_t> looks(count);
    for (std::size_t i = 0; i < count; ++i) {
        outer.values[i] = (clicked_off.values[i] || beyond.values[i]) && !inner.values[i];
        const float mean = smooth.values[i];
        const float spread = std::sqrt(std::max(mean_square.values[i] - mean * mean, 0.0f));
        looks[i] = bin(mean, kBrightnessBins) * kTextureBins + bin(2 * spread, kTextureBins);
    }
    add_nearness(smooth, inner, outer, total);
    std::vector<std::array<float, 3>> clicked;
    for (const auto& p : hints.on)
        clicked.push_back({static_cast<float>(p[0]), static_cast<float>(p[1]), static_cast<float>(p[2])});
    Field result = total, ratio(image.shape);
    std::vector<float> own(count), others(count);
    for (int round = 0; round < kLooksRounds; ++round) {
        Mask mask(image.shape);
        std::transform(result.values.begin(), result.values.end(), mask.values.begin(), [](float v) { return v > 0; });
        const Mask held = clicked_components(mask, clicked);
        const bool none = !any(held);
        for (std::size_t i = 0; i < count; ++i) {
            const float inside = 1 / (1 + std::exp(-result.values[i]));
            own[i] = none || held.values[i] ? inside : 0.0f;
            others[i] = near.values[i] ? 1 - inside : 0.0f;
        }
        const Shares like_own = histogram(looks, own, inner), like_others = histogram(looks, others, clicked_off);
        std::array<float, kBins> ratios{};
        for (std::size_t i = 0; i < ratios.size(); ++i) {
            const auto log = static_cast<float>(std::log(like_own[i] / like_others[i]));
            ratios[i] = std::min(std::max(log, -kMostLooks), kMostLooks);
        }
        for (std::size_t i = 0; i < count; ++i) ratio.values[i] = ratios[looks[i]];
        const Field mean_ratio = mean3(ratio);
        for (std::size_t i = 0; i < count; ++i) result.values[i] = total.values[i] + kLooksWeight * mean_ratio.values[i];
    }
    return result;
}

}  // namespace gstk::impl
