#include "intensity_range.hpp"

#include <algorithm>
#include <array>
#include <iterator>
#include <limits>
#include <type_traits>
#include <vector>

namespace gstk::impl {
namespace {

constexpr std::int64_t kExact = std::int64_t{1} << 53;  // integers up to it are doubles
constexpr double kLarge = 0x1p512;

template <class T>
using Value = std::remove_const_t<std::remove_pointer_t<T>>;

// Two neighbours in rank and how far between them a percentile lies.
struct Neighbours {
    double first, second, share;
};

using Histogram = std::vector<std::int64_t>;

// Small integers are counted: one pass, no copy of the volume.
template <class T>
Histogram counts_of(const T* data, std::int64_t count) {
    Histogram histogram(std::size_t{1} << (8 * sizeof(T)), 0);
    for (std::int64_t i = 0; i < count; ++i) ++histogram[static_cast<std::size_t>(data[i] - std::numeric_limits<T>::min())];
    return histogram;
}

std::vector<double> at_ranks(const Histogram& histogram, double lowest, const std::vector<std::int64_t>& ranks) {
    std::vector<double> found;
    for (const auto rank : ranks) {
        std::int64_t seen = 0;
        std::size_t bin = 0;
        while ((seen += histogram[bin]) <= rank) ++bin;
        found.push_back(lowest + static_cast<double>(bin));
    }
    return found;
}

template <class T>
std::vector<double> at_ranks(std::vector<T>& values, const std::vector<std::int64_t>& ranks) {
    std::vector<double> found;
    std::int64_t sorted = 0;  // what lies before it is smaller than what follows
    for (const auto rank : ranks) {
        std::nth_element(values.begin() + (rank >= sorted ? sorted : 0), values.begin() + rank, values.end());
        sorted = rank;
        found.push_back(static_cast<double>(values[static_cast<std::size_t>(rank)]));
    }
    return found;
}

template <class AtRanks>
std::array<Neighbours, 2> neighbours_of(const std::pair<double, double>& percentiles, std::int64_t count,
                                        const AtRanks& values_at) {
    std::vector<std::int64_t> ranks;
    std::array<Neighbours, 2> found{};
    for (int i = 0; i < 2; ++i) {
        const double rank = (i == 0 ? percentiles.first : percentiles.second) / 100 * static_cast<double>(count - 1);
        const auto below = static_cast<std::int64_t>(rank);
        ranks.insert(ranks.end(), {below, std::min(below + 1, count - 1)});
        found[i].share = rank - static_cast<double>(below);
    }
    const std::vector<double> values = values_at(ranks);
    for (std::size_t i = 0; i < 2; ++i) found[i].first = values[2 * i], found[i].second = values[2 * i + 1];
    return found;
}

// Voxels as doubles, from their own values.
template <class Convert>
std::shared_ptr<const Volume> converted(const Volume& volume, const Convert& convert) {
    auto values = std::make_shared<std::vector<double>>(static_cast<std::size_t>(volume.count()));
    for (std::size_t i = 0; i < values->size(); ++i) (*values)[i] = convert(i);
    auto result = std::make_shared<Volume>(volume);
    result->dtype = GSTK_FLOAT64;
    result->voxels = {values, values->data()};
    return result;
}

// The neighbours of two percentiles of the voxels that are not `without`.
std::array<Neighbours, 2> neighbours_in(const Volume& volume, const std::pair<double, double>& percentiles,
                                        std::optional<double> without) {
    const std::int64_t count = volume.count();
    return volume.visit([&](auto* data) {
        using T = Value<decltype(data)>;
        if constexpr (std::is_integral_v<T> && sizeof(T) <= 2) {
            constexpr std::int64_t lowest = std::numeric_limits<T>::min();
            Histogram histogram = counts_of(data, count);
            std::int64_t counted = count;
            if (without) {
                auto& bin = histogram[static_cast<std::size_t>(static_cast<std::int64_t>(*without) - lowest)];
                counted -= bin;
                bin = 0;
            }
            return neighbours_of(percentiles, counted, [&](const auto& ranks) {
                return at_ranks(histogram, static_cast<double>(lowest), ranks);
            });
        } else {
            std::vector<T> values;
            values.reserve(static_cast<std::size_t>(count));
            std::copy_if(data, data + count, std::back_inserter(values),
                         [&](T value) { return !without || static_cast<double>(value) != *without; });
            return neighbours_of(percentiles, static_cast<std::int64_t>(values.size()),
                                 [&](const auto& ranks) { return at_ranks(values, ranks); });
        }
    });
}

}  // namespace

IntensityRange percentiles_of(const Volume& volume, const std::pair<double, double>& percentiles,
                              std::optional<double> without) {
    const auto between = [](const Neighbours& n) {
        const double step = n.second - n.first;
        return n.share < 0.5 ? n.first + step * n.share : n.second - step * (1 - n.share);
    };
    const auto [low, high] = neighbours_in(volume, percentiles, without);
    return {between(low), between(high)};
}

IntensityRange extremes(const Volume& volume) {
    return volume.visit([&](auto* data) -> IntensityRange {
        const auto found = std::minmax_element(data, data + volume.count());
        return {static_cast<double>(*found.first), static_cast<double>(*found.second)};
    });
}

bool is_constant(const Volume& volume) {
    return volume.visit([&](auto* data) {
        return std::all_of(data, data + volume.count(), [&](auto value) { return value == *data; });
    });
}

bool is_case_like(const Volume& volume) {
    if (volume.dtype == GSTK_FLOAT32 || volume.dtype == GSTK_FLOAT64) return false;
    const IntensityRange ends = extremes(volume);
    return ends.low >= 0 && ends.high <= 255;
}

IntensityRange intensity_range(const Volume& volume, const std::pair<double, double>& percentiles) {
    const auto between = [](const Neighbours& n) { return n.first + n.share * (n.second - n.first); };
    const auto [below, above] = neighbours_in(volume, percentiles, std::nullopt);
    const IntensityRange range{between(below), between(above)};
    return range.high > range.low ? range : extremes(volume);
}

std::shared_ptr<const Volume> bring_within_reach(std::shared_ptr<const Volume> volume) {
    return volume->visit([&](auto* data) -> std::shared_ptr<const Volume> {
        using T = Value<decltype(data)>;
        if constexpr (sizeof(T) < 8) {
            return std::move(volume);
        } else {
            const auto found = std::minmax_element(data, data + volume->count());
            const T low = *found.first, high = *found.second;
            if constexpr (std::is_integral_v<T>) {
                const bool is_small = high <= static_cast<T>(kExact) && (std::is_unsigned_v<T> || low >= static_cast<T>(-kExact));
                if (is_small) return std::move(volume);
                const auto first = static_cast<std::uint64_t>(low);  // modulo 2^64, so that differences are exact
                return converted(*volume, [&](std::size_t i) {
                    return static_cast<double>(static_cast<std::uint64_t>(data[i]) - first);
                });
            } else {
                const double largest = std::max(std::abs(low), std::abs(high));
                if (largest > kLarge) return converted(*volume, [&](std::size_t i) { return data[i] / kLarge; });
                if (high - low > 0 && high - low < 1 / kLarge && largest < 1)
                    return converted(*volume, [&](std::size_t i) { return data[i] * kLarge; });
                return std::move(volume);
            }
        }
    });
}

}  // namespace gstk::impl
