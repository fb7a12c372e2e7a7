// Resamples window logits to the volume, and lets a click change its part of the mask; mirrors gstk.session.projection.
#pragma once

#include <string>
#include <vector>

#include "deadline.hpp"
#include "state.hpp"

namespace gstk::impl {

// What one call works on, until when, and what it skipped to stay in time, a sentence each.
struct Call {
    const ImageState& image;
    Deadline deadline;
    std::vector<std::string>& compromises;

    const Shape& shape() const { return image.geometry().shape(); }
    // The same with so much of the time kept for what follows.
    Call keeping(double seconds) const {
        return {image, deadline.is_set() ? deadline.sooner(deadline.left_s() - seconds) : deadline, compromises};
    }
    void skipped(const std::string& what) const { compromises.push_back("skipped to stay in time: " + what); }
};

// Seconds a voxel of a step, as it was last measured.
class VoxelCost {
  public:
    explicit VoxelCost(double default_s) : s_per_voxel_(default_s) {}
    double seconds(std::int64_t voxels) const { return s_per_voxel_ * static_cast<double>(voxels); }
    // Takes the measurement where there were enough voxels for it to mean something.
    void measure(std::int64_t voxels, double seconds) {
        if (voxels >= 100000) s_per_voxel_ = seconds / static_cast<double>(voxels);
    }

  private:
    double s_per_voxel_;
};

class MaskProjector {
  public:
    // The object after its prompts. `state`: the object so far, with the prompts; logits are on the grid, which is the
    // window or a part of it. Where there was a mask before, a `click` changes only what it asks for; null takes the
    // whole answer.
    ObjectState project(const Call& call, const ObjectState& state, const Point* click, const Window& window,
                        const Window& grid, const Grid<float>& logits);

    VoxelCost resample{1.5e-7};
};

}  // namespace gstk::impl
