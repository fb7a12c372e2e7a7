// Which way a volume's axes run in the patient, and how they become the axes of a network's image; mirrors
// gstk.core.orientation.
#pragma once

#include "profile.hpp"

namespace gstk::impl {

// A permutation of a volume's axes (z, y, x), some of them turned round.
struct AxisMap {
    std::array<std::size_t, 3> order{0, 1, 2};            // for each axis of the network's image the volume's axis that it is
    std::array<bool, 3> flipped{false, false, false};     // and whether it runs against it

    // What a profile makes of a volume's axes; those of a volume without orientation count as running right, front, head.
    static AxisMap of(const Profile& profile, const Geometry& geometry, bool has_orientation);

    // An array (z,y,x) in the network's axes.
    Grid<float> to_network(const Grid<float>& array) const;
    // An array in the network's axes as (z,y,x).
    Grid<float> to_volume(const Grid<float>& array) const;
    // Sides in the network's axes as (z,y,x).
    Shape sides_to_volume(const Shape& sides) const;
    // A voxel of an array of `shape` (z,y,x) in the network's axes.
    std::array<float, 3> point_to_network(const std::array<float, 3>& zyx, const Shape& shape) const;

  private:
    bool is_identity() const { return order == AxisMap{}.order && flipped == AxisMap{}.flipped; }
    // Where axis n of the network begins in an array of `shape` (z,y,x), and how far apart its voxels are.
    struct Strides {
        std::int64_t first = 0;
        std::array<std::int64_t, 3> step{};
    };
    Strides strides(const Shape& shape) const;
    // Calls `copy` with the places of each voxel in arrays of these shapes.
    template <class Copy>
    void each_voxel(const Shape& network, const Shape& volume, const Copy& copy) const;
};

}  // namespace gstk::impl
