// What to look at, and how finely, inside a time and the memory there is; mirrors gstk.planner for one object.
#pragma once

#include <limits>
#include <optional>

#include "latency.hpp"
#include "prompts.hpp"
#include "window.hpp"

namespace gstk::impl {

// What a plan has to make do with.
struct Means {
    const LatencyModel* model = nullptr;  // what calls cost; null plans without
    double limit_s = std::numeric_limits<double>::infinity();
    double memory_bytes = std::numeric_limits<double>::infinity();  // for the whole process
    double pace = 1;  // how much slower than the model says the host is now
};

struct Plan {
    std::optional<Window> window;  // the first; nothing where nothing says where the object is
    Framing framing;               // how windows are made, with the voxels that were chosen
    double expected_s = 0;         // seconds of the first look, of one more that suits the mask better, and of the chain
    double cautious_s = 0;         // seconds of the first look, at the 95th percentile
    double peak_bytes = 0;
    std::vector<std::string> given_up = {};  // what a larger limit or memory would have allowed, a sentence each
    std::vector<Window> chain = {};          // finer ones along the object, as far as they are known beforehand
    bool chained = true;                     // false where the chain was given up
};

// The box, or what was clicked up to the first point on the object: what the first look at it goes by.
ObjectPrompts first_said(const ObjectPrompts& prompts);

// Voxels that windows may have, the most first, each √2 times fewer, down to the least that the network takes.
std::vector<std::int64_t> sizes(const Framing& framing);

// The finest window that time and memory allow: its first look is expected to take half of the limit even at the 95th
// percentile, the other half is for a window that suits the mask better.
Plan make_plan(const Geometry& geometry, const ObjectPrompts& prompts, const Framing& framing, const Means& means);

// Memory that programs can still take without swapping, bytes; infinite where the system does not tell.
double free_memory_bytes();

}  // namespace gstk::impl
