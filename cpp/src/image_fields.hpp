// Fields on a grid that image_refiner needs: local means, and distances along paths.
//
// Everything goes plane by plane, and a plane is finished while it is in the cache.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "geometry.hpp"

namespace gstk::impl {

// Values that are all written before they are read; `Grid` would fill them first.
class Scratch {
  public:
    explicit Scratch(std::int64_t count) : values_(new float[static_cast<std::size_t>(count)]) {}
    float* data() { return values_.get(); }
    const float* data() const { return values_.get(); }

  private:
    std::unique_ptr<float[]> values_;
};

// Means of three voxels a side, those at the faces taken twice; a plane at a time.
class Means {
  public:
    explicit Means(const Shape& shape)
        : shape_(shape), size_(shape[1] * shape[2]), along_z_(size_), along_y_(size_) {}

    // Of plane z. `of` maps a value before it is averaged.
    template <class Of>
    void plane(const float* values, std::int64_t z, float* to, const Of& of) {
        constexpr float kThird = static_cast<float>(1.0 / 3.0);
        const std::int64_t y = shape_[1], x = shape_[2];
        const float* own = values + z * size_;
        const float* before = z > 0 ? own - size_ : own;
        const float* after = z + 1 < shape_[0] ? own + size_ : own;
        for (std::int64_t i = 0; i < size_; ++i) along_z_[i] = (of(own[i]) + of(before[i]) + of(after[i])) * kThird;
        for (std::int64_t row = 0; row < y; ++row) {
            own = along_z_.data() + row * x;
            before = row > 0 ? own - x : own;
            after = row + 1 < y ? own + x : own;
            float* sums = along_y_.data() + row * x;
            for (std::int64_t i = 0; i < x; ++i) sums[i] = (own[i] + before[i] + after[i]) * kThird;
            float* line = to + row * x;
            for (std::int64_t i = 1; i + 1 < x; ++i) line[i] = (sums[i] + sums[i - 1] + sums[i + 1]) * kThird;
            line[0] = (sums[0] + sums[0] + sums[1]) * kThird;
            line[x - 1] = (sums[x - 1] + sums[x - 2] + sums[x - 1]) * kThird;
        }
    }

  private:
    Shape shape_;
    std::int64_t size_;
    std::vector<float> along_z_, along_y_;
};

// Square of the gradient of one plane: half the difference of the neighbours, at the faces the difference itself.
void squared_gradient(const float* values, const Shape& shape, std::int64_t z, float* to);

// Distances from seeds (bytes, not 0) along paths whose steps cost the mean of both voxels; `kFar` where none leads.
// Each of `sweeps` goes along z, y and x, forth and back.
constexpr float kFar = 1e6f;
void distances_from(const Grid<std::uint8_t>& seeds, const float* cost, int sweeps, float* distances);

}  // namespace gstk::impl
