#include "planner.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>

#include "framing.hpp"

namespace gstk::impl {
namespace {

constexpr double kMemoryShare = 0.8;  // of the memory that is free; a region that needs more is not planned
const double kSmaller = std::sqrt(0.5);

Plan with(const Geometry& geometry, const ObjectPrompts& prompts, const Framing& framing, const Means& means) {
    Plan plan{first_window(geometry, first_said(prompts), framing), framing, 0, 0, 0, {}};
    if (!means.model) return plan;
    const LatencyModel& model = *means.model;
    const Shape& shape = plan.window->shape;
    // A click is decoded with those before it, one after the other.
    const auto points = static_cast<std::int64_t>(network_points(prompts).labels.size());
    const auto look_s = [&](bool cautious) {
        double decode_s = 0;
        for (std::int64_t n = 1; n <= points; ++n) decode_s += model.decode_s(shape, 1, n, false, cautious);
        return model.encode_s(shape, true, cautious) * means.pace + decode_s * means.pace;
    };
    plan.cautious_s = look_s(true);
    plan.expected_s = look_s(false) + (model.encode_s(shape) + model.decode_s(shape)) * means.pace;
    plan.peak_bytes = model.peak_bytes(shape);
    return plan;
}

// Larger for finer and for larger windows: one whose voxels are twice as long is as one of an eighth of them.
double quality(const Plan& plan, const Geometry& geometry) {
    return std::log(static_cast<double>(plan.framing.voxels)) / 3 - std::log(plan.window->side_mm(geometry));
}

std::string written(const char* format, double value) {
    char text[32];
    std::snprintf(text, sizeof text, format, value);
    return text;
}

std::string seconds(double value) {
    return written("%.3g s", value);
}

std::string gigabytes(double value) {
    return written("%.1f GB", value / 1e9);
}

// What `plan` does not have of `best`, and why.
std::vector<std::string> given_up(const Plan& best, const Plan& plan, const Means& means) {
    std::vector<std::string> found;
    if (plan.framing.voxels < best.framing.voxels) {
        std::string why;
        if (best.peak_bytes > kMemoryShare * means.memory_bytes)
            why = gigabytes(best.peak_bytes) + " of the " + gigabytes(means.memory_bytes) + " that are free";
        if (2 * best.cautious_s > means.limit_s)
            why += (why.empty() ? "" : " and ") + ("half of " + seconds(means.limit_s)) +
                   ", where the first look at all objects may take " + seconds(best.cautious_s);
        found.push_back("windows of " + std::to_string(best.framing.voxels) + " voxels: they have " +
                        std::to_string(plan.framing.voxels) + ", for want of " + why);
    }
    if (plan.cautious_s > means.limit_s)
        found.push_back("a mask that surely comes from the network: the least first look may take " +
                        seconds(plan.cautious_s) + " of " + seconds(means.limit_s) +
                        "; what is not done then is filled in from the prompts alone");
    return found;
}

}  // namespace

ObjectPrompts first_said(const ObjectPrompts& prompts) {
    if (prompts.box) return {{}, prompts.box};
    const auto first =
        std::find_if(prompts.points.begin(), prompts.points.end(), [](const Point& p) { return p.foreground; });
    return {{prompts.points.begin(), first + 1}, {}};
}

std::vector<std::int64_t> sizes(const Framing& framing) {
    const std::int64_t least = framing.minimum * framing.minimum * framing.minimum;
    std::vector<std::int64_t> found{framing.voxels};
    while (found.back() > least)
        found.push_back(std::max(least, static_cast<std::int64_t>(static_cast<double>(found.back()) * kSmaller)));
    return found;
}

Plan make_plan(const Geometry& geometry, const ObjectPrompts& prompts, const Framing& framing, const Means& means) {
    if (!prompts.can_start()) return {std::nullopt, framing, 0, 0, 0, {}};
    const auto fits = [&](const Plan& plan) {
        return plan.peak_bytes <= kMemoryShare * means.memory_bytes && 2 * plan.cautious_s <= means.limit_s;
    };
    const Plan finest = with(geometry, prompts, framing, means);
    if (fits(finest)) return finest;
    std::optional<Plan> best;
    Plan least = finest;
    Framing coarser = framing;
    const auto voxels = sizes(framing);
    for (auto v = voxels.begin() + 1; v != voxels.end(); ++v) {
        coarser.voxels = *v;
        const Plan plan = with(geometry, prompts, coarser, means);
        if (fits(plan) && (!best || quality(plan, geometry) > quality(*best, geometry))) best = plan;
        if (plan.cautious_s < least.cautious_s) least = plan;
    }
    Plan chosen = best ? *best : least;
    chosen.given_up = given_up(finest, chosen, means);
    return chosen;
}

double free_memory_bytes() {
    std::ifstream table("/proc/meminfo");
    for (std::string name, line; table >> name && std::getline(table, line);)
        if (name == "MemAvailable:") return 1024 * std::strtod(line.c_str(), nullptr);
    return std::numeric_limits<double>::infinity();
}

}  // namespace gstk::impl
