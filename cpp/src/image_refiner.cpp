#include "image_refiner.hpp"

#include <algorithm>
#include <cmath>
#include <future>

#include "click_update.hpp"
#include "image_fields.hpp"
#include "slabs.hpp"

namespace gstk::impl {

namespace {

using Field = Grid<float>;
using Shares = std::vector<double>;

// The Python module says what each of these is.
constexpr float kMostLogit = 6, kTrust = 0.75f, kTrustWithBox = 0.5f;
constexpr float kBoxWeight = 6, kLeastBox = -3, kBeyond = 1.15f;
constexpr float kPathWeight = 8, kEdge = 0.05f, kFlat = 0.02f;
constexpr int kSweeps = 2;
constexpr float kAppearanceWeight = 2, kMaxAppearance = 3;
constexpr int kAppearanceRounds = 2;
constexpr int kBrightnessBins = 24, kTextureBins = 12, kBins = kBrightnessBins * kTextureBins;
constexpr double kClickedShare = 0.3, kEvenShare = 0.1;
constexpr double kCoarse = 1.4;
constexpr std::int64_t kMostFiner = 3, kFineVoxels = 2'200'000, kRim = 2;
constexpr std::array<double, 5> kBinomial{1 / 16.0, 4 / 16.0, 6 / 16.0, 4 / 16.0, 1 / 16.0};

// What a background appearance like is taken from within this many half sides of the box.
constexpr float kSurroundings = 1.5f;

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

// Adds to `total`: the weight at the inner seeds, less it at the outer ones, between them by the ratio of the distances.
void add_geodesic_score(const float* smooth, const Mask& inner, const Mask& outer, int threads, Field& total) {
    if (!any(inner) || !any(outer)) return;
    const Shape& shape = total.shape;
    const std::int64_t size = shape[1] * shape[2];
    constexpr float kSteep = 1 / (kEdge * kEdge);
    Scratch cost(count_of(shape)), near(count_of(shape)), far(count_of(shape));
    in_slabs(shape[0], threads, [&](std::int64_t, std::int64_t first, std::int64_t last) {
        for (std::int64_t z = first; z < last; ++z) {
            float* plane = cost.data() + z * size;
            squared_gradient(smooth, shape, z, plane);
            for (std::int64_t i = 0; i < size; ++i) plane[i] = plane[i] * kSteep + kFlat;
        }
    });
    const auto measure = [&](const Mask& seeds, Scratch& to) { distances_from(seeds, cost.data(), kSweeps, to.data()); };
    auto beside = std::async(threads == 1 ? std::launch::deferred : std::launch::async, [&] { measure(outer, far); });
    measure(inner, near);
    beside.get();
    in_slabs(shape[0], threads, [&](std::int64_t, std::int64_t first, std::int64_t last) {
        const float *from = far.data(), *to = near.data();
        float* sums = total.values.data();
        for (std::int64_t i = first * size; i < last * size; ++i)
            sums[i] += kPathWeight * ((from[i] - to[i]) / (from[i] + to[i]));
    });
}

std::uint16_t bin(float value, int count) {
    return static_cast<std::uint16_t>(std::min(static_cast<int>(value * static_cast<float>(count)), count - 1));
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

// A histogram, smoothed, with extra weight for what was clicked.
Shares histogram(Shares shares, const std::vector<std::uint16_t>& appearance, const Mask& clicked) {
    make_shares(shares);
    Shares around_clicks(kBins);
    bool is_clicked = false;
    for (std::size_t i = 0; i < appearance.size(); ++i)
        if (clicked.values[i]) {
            around_clicks[appearance[i]] += 1;
            is_clicked = true;
        }
    if (is_clicked) {
        make_shares(around_clicks);
        for (std::size_t i = 0; i < shares.size(); ++i) shares[i] += kClickedShare * around_clicks[i];
        make_shares(shares);
    }
    shares = smoothed(smoothed(shares, false), true);
    make_shares(shares);
    for (double& share : shares) share += kEvenShare / kBins;
    return shares;
}

// Takes back what a box says around clicks that say the opposite: 0 there, as before far away.
void relax_box_prior(const Faces& box, const std::vector<Triple>& points, bool foreground, Field& prior) {
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
void add_box(const Faces& box, const LocalPrompts& prompts, Field& total, Mask& near, Mask& beyond) {
    Field prior(total.shape);
    each_radius(total.shape, box, [&](std::size_t i, float z, float y, float x) {
        const float farthest2 = std::max(std::max(z, y), x);
        prior.values[i] = std::max(1 - (z + y + x), kLeastBox);
        near.values[i] = farthest2 < kSurroundings * kSurroundings;
        beyond.values[i] = farthest2 > kBeyond * kBeyond;
    });
    relax_box_prior(box, prompts.foreground, true, prior);
    relax_box_prior(box, prompts.background, false, prior);
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

FinePart fine_part(const Geometry& geometry, const Window& window, const LocalPrompts& prompts) {
    const FinePart whole{{{}, window.shape}, 1};
    const Triple& spacing = geometry.spacing_mm();
    const double coarser = window.side_mm(geometry) / *std::min_element(spacing.begin(), spacing.end());
    if (coarser < kCoarse) return whole;
    FinePart found = whole;
    if (prompts.box)
        for (int a = 0; a < 3; ++a) {
            const double middle = (prompts.box->low[a] + prompts.box->high[a]) / 2;
            const double half = (prompts.box->high[a] - prompts.box->low[a]) / 2;
            double low = middle - kSurroundings * half, high = middle + kSurroundings * half;
            for (const auto& point : prompts.foreground) {
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
    Grid<float> inner = part_of(logits, part.voxels);
    const double step = 1 / static_cast<double>(part.finer);
    Shape shape = inner.shape;
    for (auto& n : shape) n *= part.finer;
    return resample(std::move(inner), {0, 0, 0}, {step, step, step}, shape, Outside::kEdge);
}

Grid<float> refine_logits(const Grid<float>& image, const Grid<float>& logits, LocalPrompts prompts, int threads) {
    const Shape& shape = image.shape;
    const std::int64_t size = shape[1] * shape[2];
    const auto by_planes = [&](auto&& what) { in_slabs(shape[0], threads, what); };
    const float trust = prompts.box ? kTrustWithBox : kTrust;
    Field total(shape);
    for (std::size_t i = 0; i < total.values.size(); ++i)
        total.values[i] = std::min(std::max(logits.values[i], -kMostLogit), kMostLogit) * trust;
    Mask near(shape, 1), beyond(shape);
    if (prompts.box) {
        Faces& box = *prompts.box;
        Triple middle{};
        for (std::size_t a = 0; a < 3; ++a) middle[a] = (box.low[a] + box.high[a]) / 2;
        prompts.foreground.push_back(middle);
        // A click on the object beyond the box shows that the box is too small.
        for (const auto& point : prompts.foreground)
            for (std::size_t a = 0; a < 3; ++a) {
                box.low[a] = std::min(box.low[a], point[a] - 0.5);
                box.high[a] = std::max(box.high[a], point[a] + 0.5);
            }
        add_box(box, prompts, total, near, beyond);
    } else {
        beyond = outer_faces(logits);
    }
    const Mask inner = around(shape, prompts.foreground), clicked_off = around(shape, prompts.background);
    Mask& outer = beyond;
    Scratch smooth(count_of(shape));
    std::vector<std::uint16_t> appearance(total.values.size());
    by_planes([&](std::int64_t, std::int64_t first, std::int64_t last) {
        Means means(shape);
        std::vector<float> squares(static_cast<std::size_t>(size));
        for (std::int64_t z = first; z < last; ++z) {
            float* mean = smooth.data() + z * size;
            means.plane(image.values.data(), z, mean, [](float value) { return value; });
            means.plane(image.values.data(), z, squares.data(), [](float value) { return value * value; });
            for (std::int64_t i = 0; i < size; ++i) {
                const auto at = static_cast<std::size_t>(z * size + i);
                outer.values[at] = (clicked_off.values[at] | outer.values[at]) & !inner.values[at];
                const float spread = std::sqrt(std::max(squares[i] - mean[i] * mean[i], 0.0f));
                appearance[at] = static_cast<std::uint16_t>(bin(mean[i], kBrightnessBins) * kTextureBins +
                                                       bin(2 * spread, kTextureBins));
            }
        }
    });
    add_geodesic_score(smooth.data(), inner, outer, threads, total);
    std::vector<std::array<float, 3>> clicked;
    for (const auto& p : prompts.foreground)
        clicked.push_back({static_cast<float>(p[0]), static_cast<float>(p[1]), static_cast<float>(p[2])});
    Field result = total;
    Scratch& ratio = smooth;  // which is of no more use
    for (int round = 0; round < kAppearanceRounds; ++round) {
        const Mask held = clicked_components(above_zero(result), clicked);
        const bool none = !any(held);
        std::array<std::array<Shares, 2>, kSlabs> counts;
        by_planes([&](std::int64_t slab, std::int64_t first, std::int64_t last) {
            Shares own(kBins), others(kBins);
            for (auto i = static_cast<std::size_t>(first * size); i < static_cast<std::size_t>(last * size); ++i) {
                const float inside = 1 / (1 + std::exp(-result.values[i]));
                if (none || held.values[i]) own[appearance[i]] += static_cast<double>(inside);
                if (near.values[i]) others[appearance[i]] += static_cast<double>(1 - inside);
            }
            counts[static_cast<std::size_t>(slab)] = {std::move(own), std::move(others)};
        });
        for (std::size_t slab = 1; slab < counts.size(); ++slab)
            for (std::size_t k = 0; k < 2; ++k)
                for (std::size_t i = 0; i < kBins; ++i) counts[0][k][i] += counts[slab][k][i];
        const Shares like_own = histogram(std::move(counts[0][0]), appearance, inner);
        const Shares like_others = histogram(std::move(counts[0][1]), appearance, clicked_off);
        std::array<float, kBins> ratios{};
        for (std::size_t i = 0; i < ratios.size(); ++i) {
            const auto log = static_cast<float>(std::log(like_own[i] / like_others[i]));
            ratios[i] = std::min(std::max(log, -kMaxAppearance), kMaxAppearance);
        }
        by_planes([&](std::int64_t, std::int64_t first, std::int64_t last) {
            for (std::int64_t i = first * size; i < last * size; ++i)
                ratio.data()[i] = ratios[appearance[static_cast<std::size_t>(i)]];
        });
        by_planes([&](std::int64_t, std::int64_t first, std::int64_t last) {
            Means means(shape);
            std::vector<float> plane(static_cast<std::size_t>(size));
            for (std::int64_t z = first; z < last; ++z) {
                means.plane(ratio.data(), z, plane.data(), [](float value) { return value; });
                const float* sums = total.values.data() + z * size;
                float* to = result.values.data() + z * size;
                for (std::int64_t i = 0; i < size; ++i) to[i] = sums[i] + kAppearanceWeight * plane[i];
            }
        });
    }
    return result;
}

}  // namespace gstk::impl
