#include "planner.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>

#include "chain.hpp"
#include "framing.hpp"

namespace gstk::impl {
namespace {

constexpr double kMemoryShare = 0.8;  // of the memory that is free; a region that needs more is not planned
const double kSmaller = std::sqrt(0.5);

Plan with(const Geometry& geometry, const ObjectPrompts& prompts, const Framing& framing, const Means& means) {
    Plan plan{first_window(geometry, first_said(prompts), framing), framing};
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

// Windows along an object's box, or of its clicks where they lie far apart.
std::vector<Window> chain_of(const Geometry& geometry, const ObjectPrompts& prompts, const Plan& plan) {
    std::vector<Faces> cells;
    Window window = *plan.window;
    if (prompts.box) {
        Faces box{as_triple(prompts.box->first), as_triple(prompts.box->last)};
        for (auto& face : box.high) ++face;
        double thickness_mm = std::numeric_limits<double>::infinity();
        for (int a = 0; a < 3; ++a)
            thickness_mm = std::min(thickness_mm, (box.high[a] - box.low[a]) * geometry.spacing_mm()[a]);
        if (thickness_mm > 2 * static_cast<double>(kThin) * window.side_mm(geometry)) return {};
        cells = solid(box);
    } else {
        for (const auto& p : prompts.points)
            if (p.foreground)
                cells.push_back({as_triple(p.zyx), as_triple({p.zyx[0] + 1, p.zyx[1] + 1, p.zyx[2] + 1})});
        if (cells.size() < 2) return {};
        window = first_window(geometry, prompts, plan.framing);
    }
    std::vector<Window> found;
    for (const auto& part : parts_of(geometry, cells, plan.framing, window.side_mm(geometry)))
        found.push_back(part.window);
    return found;
}

// The plan with a chain of finer windows, where a box or clicks ask for one and there is time besides.
Plan chained(Plan plan, const Geometry& geometry, const ObjectPrompts& prompts, const Means& means) {
    auto chain = chain_of(geometry, prompts, plan);
    if (chain.empty()) return plan;
    std::array<double, 2> look_s{};  // expected, and at the 95th percentile
    double peak_bytes = plan.peak_bytes;
    if (means.model)
        for (const auto& window : chain) {
            std::int64_t points = 1;
            for (const auto& p : prompts.points) points += window.holds(as_triple(p.zyx)) ? 1 : 0;
            for (const bool cautious : {false, true}) {
                double decode_s = 0;
                for (std::int64_t n = 1; n <= points; ++n)
                    decode_s += means.model->decode_s(window.shape, 1, n, false, cautious);
                look_s[cautious ? 1 : 0] +=
                    means.model->encode_s(window.shape, false, cautious) * means.pace + decode_s * means.pace;
            }
            peak_bytes = std::max(peak_bytes, means.model->peak_bytes(window.shape));
        }
    if (plan.expected_s + look_s[1] > means.limit_s) {
        plan.given_up.push_back(std::to_string(chain.size()) + " finer windows along the object: they may take " +
                                seconds(look_s[1]) + " more");
        plan.chained = false;
        return plan;
    }
    plan.expected_s += look_s[0];
    plan.peak_bytes = peak_bytes;
    plan.chain = std::move(chain);
    return plan;
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
    if (!prompts.can_start()) return {std::nullopt, framing};
    const auto fits = [&](const Plan& plan) {
        return plan.peak_bytes <= kMemoryShare * means.memory_bytes && 2 * plan.cautious_s <= means.limit_s;
    };
    const Plan finest = with(geometry, prompts, framing, means);
    if (fits(finest)) return chained(finest, geometry, prompts, means);
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
    return chained(std::move(chosen), geometry, prompts, means);
}

double free_memory_bytes() {
    std::ifstream table("/proc/meminfo");
    for (std::string name, line; table >> name && std::getline(table, line);)
        if (name == "MemAvailable:") return 1024 * std::strtod(line.c_str(), nullptr);
    return std::numeric_limits<double>::infinity();
}

}  // namespace gstk::impl
