// Percentiles of a volume, and numbers that percentiles can be taken of; mirrors gstk.core.resampling.
#pragma once

#include <memory>
#include <optional>
#include <utility>

#include "volume.hpp"

namespace gstk::impl {

struct IntensityRange {
    double low;
    double high;
};

// Two percentiles, 0 to 100, of the voxels that are not `without`, interpolated from the nearer end as NumPy does.
IntensityRange percentiles_of(const Volume& volume, const std::pair<double, double>& percentiles,
                              std::optional<double> without = std::nullopt);

// Least and largest value.
IntensityRange extremes(const Volume& volume);

// Whether all voxels have one value.
bool is_constant(const Volume& volume);

// Whether a volume looks like one that was windowed to 0..255 already.
bool is_case_like(const Volume& volume);

// Two percentiles of a whole volume, interpolated from below; its extremes where those are equal, so that a small bright object on nothing still
// has contrast.
IntensityRange intensity_range(const Volume& volume, const std::pair<double, double>& percentiles = {1, 99});

// A volume whose differences a double can hold: the volume itself, but for integers beyond 2^53 and doubles whose range is
// beyond what can be divided by. Those come as double, less their minimum or times a power of two, with the contrast that
// they had.
std::shared_ptr<const Volume> bring_within_reach(std::shared_ptr<const Volume> volume);

}  // namespace gstk::impl
