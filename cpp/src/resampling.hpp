// What is done to voxels on their way into the network and back; mirrors gstk.core.resampling, number for number.
#pragma once

#include "intensity_range.hpp"

namespace gstk::impl {

enum class Outside { kZero, kEdge };  // what lies beyond the input: 0, or the nearest voxel's value

// A part of a volume with [low, high] mapped to [0, 1] and clipped; all 0 where low equals high.
Grid<float> normalise(const Volume& volume, const Region& part, const IntensityRange& range);

// One axis of an interpolation: output i is the sum of weights[i·width + k] · input[first[i] + k].
//
// Output voxel i has its centre at input coordinate start + (i + 0.5)·step - 0.5. The kernel is a triangle of
// half-width max(step, 1): linear interpolation, widened to an antialiasing filter where the output is coarser.
struct AxisWeights {
    std::int64_t width;
    std::vector<std::int64_t> first;
    std::vector<float> weights;
};

AxisWeights axis_weights(std::int64_t n_in, std::int64_t n_out, double start, double step, Outside outside);

// Samples an axis-aligned window of a volume, separably, axis by axis.
Grid<float> resample(Grid<float> volume, const Triple& start, const Triple& step, const Shape& shape, Outside outside);

// `resample` of a part of a volume, normalised, 0 outside of it; a large one is never there as float as a whole.
Grid<float> sample(const Volume& volume, const Region& part, const IntensityRange& range, const Triple& start,
                   const Triple& step, const Shape& shape);

}  // namespace gstk::impl
