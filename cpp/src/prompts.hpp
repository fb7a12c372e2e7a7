// Points and boxes on the objects of a volume; mirrors gstk.core.prompts.
#pragma once

#include <optional>
#include <vector>

#include "geometry.hpp"

namespace gstk::impl {

struct Point {
    Voxel zyx{};
    bool foreground = true;

    bool operator==(const Point& other) const { return zyx == other.zyx && foreground == other.foreground; }
};

// Bounds inclusive; z_mid is the slice on which the box was drawn.
struct Box {
    Voxel first{};
    Voxel last{};
    std::int64_t z_mid = 0;

    // Throws GSTK_ERROR_PROMPT where a minimum exceeds its maximum.
    void check() const;
    // Middle voxel of the middle slice.
    Voxel centre() const;
    bool operator==(const Box& other) const {
        return first == other.first && last == other.last && z_mid == other.z_mid;
    }
};

struct ObjectPrompts {
    std::vector<Point> points;  // in the order of the clicks
    std::optional<Box> box;
    bool is_novel = false;  // of no class that the network was trained on, which the network is told

    // Whether something says where the object is.
    bool can_start() const;
    bool operator==(const ObjectPrompts& other) const {
        return points == other.points && box == other.box && is_novel == other.is_novel;
    }
};

// The prompts as the network takes them, float64 voxels of the volume and labels 0 or 1.
struct NetworkPoints {
    std::vector<Triple> coords;
    std::vector<std::int64_t> labels;
};

// Clicks; a box says where the object is, so its centre is a click before the others.
NetworkPoints network_points(const ObjectPrompts& prompts);

// Points of an object that the network is given at once.
constexpr std::size_t kMostPoints = 128;
// Of more points than `most`, which is 2 or more, the first one on the object, and the latest.
NetworkPoints latest_points(NetworkPoints points, std::size_t most = kMostPoints);

inline Triple as_triple(const Voxel& v) {
    return {static_cast<double>(v[0]), static_cast<double>(v[1]), static_cast<double>(v[2])};
}

}  // namespace gstk::impl
