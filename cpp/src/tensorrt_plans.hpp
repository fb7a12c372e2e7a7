// TensorRT plans on disk: what `gstk build` wrote beside each, and whether it may be loaded here. A plan is a program:
// it is loaded where its folder and files are this user's own (or the administrator's), its bytes are those that the
// file beside it names, and it was built from this bundle's graphs for this GPU and TensorRT. Mirrors
// gstk.engines.tensorrt_plans, tensorrt_record and, of tensorrt_profiles, what running needs.
#pragma once

#include <string>
#include <vector>

#include "bundle.hpp"

namespace gstk::impl {

// A range of regions, and how many objects are decoded in one at once, at the most.
struct PlanProfile {
    Shape least, usual, most;
    std::int64_t objects;

    bool admits(const Shape& region) const;
};

// Where plans run.
struct PlanHost {
    std::string gpu;
    std::pair<std::int64_t, std::int64_t> capability;
    std::string tensorrt;                        // version
    std::pair<std::int64_t, std::int64_t> cuda;  // newest of the driver
    std::string system;                          // such as linux-x86_64
};

struct BuiltPlan {
    std::filesystem::path path;
    std::string model, kind, precision, graph, built, sha256;
    std::vector<PlanProfile> profiles;
    std::int64_t points;  // of an object, at the most
    std::string hardware;
    bool is_version_compatible, is_stripped;
    PlanHost host;     // where it was built
    std::string pair;  // the same for the encoder and the decoder of one build
};

struct PlanPair {
    BuiltPlan encoder, decoder;
};

// Encoder and decoder of one build for this host, the latest where there are several.
//
// folder: where they lie; empty for the bundle's `engines` and the user's cache. Throws GSTK_ERROR_PLAN: there are
// none, or only stale or foreign ones, or the folder is not the user's own; GSTK_ERROR_ARCHITECTURE: there are some,
// for other GPUs.
PlanPair find_plans(const Bundle& bundle, const std::string& precision, const PlanHost& host,
                    const std::filesystem::path& folder);

// A plan's bytes: those that are returned are those that were compared with the file beside it.
std::string read_plan(const BuiltPlan& plan);

// Index of the profile for a region, one of that region alone before a wide one; -1 for none.
int find_profile(const std::vector<PlanProfile>& profiles, const Shape& region);

// The profiles, for a message.
std::string text(const std::vector<PlanProfile>& profiles);

// Sizes of the groups that objects are decoded in: powers of two up to the most, which counts as a size too. A last
// group may be larger than what is left for it by a quarter of its size.
std::vector<std::int64_t> buckets(std::int64_t objects, std::int64_t most);

}  // namespace gstk::impl
