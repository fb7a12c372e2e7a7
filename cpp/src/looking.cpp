#include "looking.hpp"

#include <algorithm>
#include <cmath>

#include "framing.hpp"
#include "planner.hpp"
#include "refine.hpp"
#include "second_look.hpp"

namespace gstk::impl {
namespace {

// Windows that one prompt may try: the first, and wider or narrower ones where the mask does not sit well in it.
constexpr int kMaxWindows = 3;
// Seconds that a voxel of the volume takes on the mask's way back, until that was measured.
constexpr double kBackS = 1.5e-7;
// The same where there is no time for smooth borders; this much is always kept.
constexpr double kNearestS = 5e-9;
// Seconds that a voxel takes to refine, image included, until that was measured.
constexpr double kRefineS = 2e-7;
constexpr std::size_t kMeasuredVoxels = 100000;
constexpr const char* kFinerParts = "finer windows along the object";
constexpr const char* kSecondLook = "a second look with points of the first mask";

Triple local_of(const Window& window, const Triple& zyx) {
    const auto at = window.to_window(zyx);
    return {at[0], at[1], at[2]};
}

Hints hints_on(const Window& window, const ObjectPrompts& prompts) {
    const auto local = [&](const Triple& zyx) { return local_of(window, zyx); };
    Hints hints;
    for (const auto& p : prompts.points) (p.foreground ? hints.on : hints.off).push_back(local(as_triple(p.zyx)));
    if (prompts.box) {
        Triple low = as_triple(prompts.box->first), high = as_triple(prompts.box->last);
        for (int a = 0; a < 3; ++a) {
            low[a] -= 0.5;
            high[a] += 0.5;
        }
        hints.box = Faces{local(low), local(high)};
    }
    return hints;
}

// Prompts with the points from the first-th to before the last-th.
ObjectPrompts part_of(const ObjectPrompts& prompts, std::size_t first, std::size_t last) {
    const auto at = [&](std::size_t i) { return prompts.points.begin() + static_cast<std::ptrdiff_t>(i); };
    return {{at(first), at(last)}, prompts.box};
}

double voxels(const Region& region) {
    return static_cast<double>(count_of(region.shape()));
}

// What of the time is left for now, with so many seconds to come.
Deadline less(const Deadline& deadline, double seconds) {
    return deadline.is_set() ? deadline.sooner(deadline.left_s() - seconds) : deadline;
}

}  // namespace

bool ObjectState::goes_on_to(const ObjectPrompts& said) const {
    const auto& before = prompts.points;
    return logits && !guessed && said.box == prompts.box && said.points.size() >= before.size() &&
           std::equal(before.begin(), before.end(), said.points.begin());
}

std::size_t ObjectState::size_bytes() const {
    return (logits ? logits->values.values.size() * sizeof(float) : 0) + (chain ? chain->size_bytes() : 0);
}

std::size_t ObjectState::looks_for(const ObjectPrompts& said) const {
    if (goes_on_to(said)) return said.points.size() - prompts.points.size();
    return said.points.size() + (said.box ? 1 : 0);
}

Looker::Looker(std::shared_ptr<Engine> engine, std::optional<LatencyModel> model, std::size_t cache_bytes, bool refine)
    : engine(std::move(engine), std::move(model)), embeddings_(cache_bytes), refine_(refine), back_s_(kBackS),
      refine_s_(kRefineS) {}

void Looker::forget() {
    embeddings_.clear();
    latest_.reset();
}

ObjectState Looker::follow(const Task& task, const ObjectState& known, const ObjectPrompts& prompts,
                           const std::optional<Window>& first_look, const Deadline& deadline) {
    const std::size_t count = prompts.points.size();
    ObjectState following;
    following.prompts.box = prompts.box;
    if (known.goes_on_to(prompts)) following = known;
    if (!following.window) following.window = first_look;
    std::size_t end = following.prompts.points.size();
    try {
        if (prompts.box && !following.logits)
            following = segment(task, following, nullptr, less(deadline, clicks_s(following, count)));
        // One click after the other, so that a mask does not depend on whether they were given at once.
        for (++end; end <= count; ++end) {
            const double others_s = clicks_s(following, count - end);
            ObjectState said = following;
            if (end < count && others_s > deadline.left_s()) {
                task.given_up.push_back("one click after the other: all were taken at once");
                said = {prompts, following.window, nullptr, false, nullptr};
                return segment(task, said, nullptr, deadline);
            }
            said.prompts = part_of(prompts, 0, end);
            following = segment(task, said, &prompts.points[end - 1], less(deadline, others_s));
        }
    } catch (const TimeUp&) {
        task.given_up.push_back((following.logits ? "its answer to the latest prompts" : "the network's answer") +
                                std::string(": the mask is made from the prompts alone"));
        const auto unsaid = part_of(prompts, following.prompts.points.size(), count);
        following.logits =
            std::make_shared<const Logits>(prompt_shape(unsaid, task.geometry(), following.logits.get()));
        following.guessed = true;
    }
    following.prompts = prompts;
    return following;
}

// The object's mask from all that was said about it: a fitting window, one embedding, one decode.
//
// Where one window is too coarse, a chain of them follows. Where there was a mask before, a `click` changes only what is
// connected to it; in a chain, only the windows that show it are looked at again. Throws `TimeUp` where there is not even
// a first answer.
ObjectState Looker::segment(const Task& task, const ObjectState& known, const Point* click, Deadline deadline) {
    if (!known.prompts.can_start()) return {known.prompts, {}, nullptr, false, nullptr};  // nothing says where the object is
    const NetworkPoints points = network_points(known.prompts);
    const auto held = [&](const Triple& zyx) { return known.window->holds(zyx); };
    const bool fits = known.window && std::all_of(points.coords.begin(), points.coords.end(), held);
    Window window = fits ? *known.window : first_window(task.geometry(), known.prompts, task.framing);
    if (deadline.is_set()) deadline = less(deadline, kNearestS * voxels(window.inside(task.geometry().shape())));
    if (fits && click && known.chain)
        if (auto chain = corrected(task, *known.chain, known.prompts, *click, deadline)) {
            Grid<float> coarse = *chain->coarse;
            return placed(task, known, click, window, std::move(coarse), std::move(chain), deadline);
        }
    if (deadline.is_set()) window = affordable(task, window, deadline);
    Grid<float> logits = look(task, window, points, deadline);
    for (int looks = 1; looks < kMaxWindows; ++looks) {
        const auto better = better_window(task.geometry(), window, logits, known.prompts, task.framing);
        if (!better) break;
        try {
            if (cautious_s(*better) > deadline.left_s()) throw TimeUp{};
            logits = look(task, *better, points, deadline);
        } catch (const TimeUp&) {
            task.given_up.push_back("a window that suits the mask better");
            break;
        }
        window = *better;
    }
    auto chain = task.chained ? chained(task, window, known.prompts, logits, deadline) : nullptr;
    if (!chain) second_look(task, window, known.prompts, logits, deadline);
    return placed(task, known, click, window, std::move(logits), std::move(chain), deadline);
}

// Makes logits the network's answer when it is told points of its first one too, where that helps and there is time.
void Looker::second_look(const Task& task, const Window& window, const ObjectPrompts& prompts, Grid<float>& logits,
                         const Deadline& deadline) {
    if (!looks_again(prompts.points.size(), prompts)) return;
    try {
        if (deadline.is_set() && again_s(window, true) > deadline.left_s()) throw TimeUp{};
        const Hints hints = hints_on(window, prompts);
        const Grid<float> refined = refine_logits(seen(task, window), logits, hints, engine.threads());
        Grid<std::uint8_t> mask(refined.shape);
        std::transform(refined.values.begin(), refined.values.end(), mask.values.begin(),
                       [](float value) { return static_cast<std::uint8_t>(value > 0); });
        NetworkPoints points = network_points(prompts);
        std::vector<Triple> said;
        for (const auto& zyx : points.coords) said.push_back(local_of(window, zyx));
        const OwnPoints own = own_points(mask, hints, said, points.labels);
        const auto tell = [&](const std::vector<Triple>& voxels_of_window, std::int64_t label) {
            for (const Triple& voxel : voxels_of_window) {
                Triple zyx{};
                for (std::size_t a = 0; a < 3; ++a) zyx[a] = (voxel[a] + 0.5) * window.step[a] + window.start[a] - 0.5;
                points.coords.push_back(zyx);
                points.labels.push_back(label);
            }
        };
        tell(own.on, 1);
        tell(own.off, 0);
        if (!own.on.empty() || !own.off.empty()) logits = look(task, window, points, deadline);
    } catch (const TimeUp&) {
        task.given_up.push_back(kSecondLook);
    }
}

bool Looker::looks_again(std::size_t clicks, const ObjectPrompts& prompts) const {
    return refine_ && second_look_is_wanted(clicks, prompts.box.has_value());
}

// Seconds of a second look.
double Looker::again_s(const Window& window, bool cautious) const {
    return refine_s_ * static_cast<double>(count_of(window.shape)) + engine.decode_s(window.shape, cautious);
}

double Looker::second_looks_s(const Window& window, const ObjectPrompts& prompts, const ObjectState& known) const {
    const std::size_t end = prompts.points.size() + 1;
    double seconds = 0;
    for (std::size_t clicks = end - known.looks_for(prompts); clicks < end; ++clicks)
        if (looks_again(clicks, prompts)) seconds += again_s(window, false);
    return seconds;
}

// Answers in finer windows along the object, after the coarse one in `window`; as many as there is time for.
std::shared_ptr<const Chain> Looker::chained(const Task& task, const Window& window, const ObjectPrompts& prompts,
                                             const Grid<float>& logits, const Deadline& deadline) {
    auto links = links_of(task.geometry(), window, logits, prompts, task.framing);
    if (links.empty()) return nullptr;
    Chain found{nullptr, {}, grid_of(task.geometry(), window, links)};
    // Blending takes as long as the way back.
    double after_s = 2 * back_s_ * voxels(found.grid.inside(task.geometry().shape()));
    if (refine_) after_s += refine_s_ * static_cast<double>(count_of(found.grid.shape));
    const Deadline sooner = less(deadline, after_s);
    for (auto& link : links) {
        const NetworkPoints points = link.points(prompts, task.geometry());
        if (std::find(points.labels.begin(), points.labels.end(), 1) == points.labels.end()) continue;
        try {
            if (cautious_s(link.window) > sooner.left_s()) throw TimeUp{};
            link.logits = std::make_shared<const Grid<float>>(look(task, link.window, points, sooner));
        } catch (const TimeUp&) {
            task.given_up.push_back(kFinerParts);
            break;
        }
        found.links.push_back(std::move(link));
    }
    if (found.links.empty()) return nullptr;
    found.coarse = std::make_shared<const Grid<float>>(logits);
    return std::make_shared<const Chain>(std::move(found));
}

// A chain after a click, the latest of the prompts; null where its windows do not show the click well.
std::shared_ptr<const Chain> Looker::corrected(const Task& task, const Chain& chain, const ObjectPrompts& prompts,
                                               const Point& click, const Deadline& deadline) {
    const Shape& shape = task.geometry().shape();
    if (chain.weight(click.zyx, shape) < 0.5) return nullptr;
    Chain found = chain;
    for (auto& link : found.links) {
        if (link.weight(click.zyx, shape) <= 0) continue;
        const NetworkPoints points = link.points(prompts, task.geometry());
        // The click says that nothing of the object is there: the whole is looked at again.
        if (std::find(points.labels.begin(), points.labels.end(), 1) == points.labels.end()) return nullptr;
        link.logits = std::make_shared<const Grid<float>>(look(task, link.window, points, deadline));
    }
    return std::make_shared<const Chain>(std::move(found));
}

// The network's answer on the volume's voxels, where the click asked for it.
ObjectState Looker::placed(const Task& task, const ObjectState& known, const Point* click, const Window& window,
                           Grid<float> logits, std::shared_ptr<const Chain> chain, const Deadline& deadline) {
    const ObjectPrompts& prompts = known.prompts;
    const Shape& shape = task.geometry().shape();
    Window grid = window;
    std::vector<Triple> held;  // voxels that must be in the region, be the network's answer there or not
    if (refine_) {
        grid = refined(task, window, prompts, logits, chain.get(), deadline);
        for (const auto& p : prompts.points)
            if (p.foreground) held.push_back(as_triple(p.zyx));
    } else if (chain) {
        grid = chain->grid;
        logits = chain->blended(window, shape);
    }
    const double began_s = now_s();
    const Region above = grid.above_zero(logits, held);
    const Window part = grid.part(above, 1);
    const Region region = part.inside(shape);
    const auto state = [&](Logits found) {
        return ObjectState{prompts, window, std::make_shared<const Logits>(std::move(found)), false, chain};
    };
    if (back_s_ * voxels(region) > deadline.left_s()) {
        task.given_up.push_back("smooth borders: the mask is as coarse as its window");
        return state({region, part.nearest(part_of(logits, above), shape)});
    }
    Logits found{region, part.back(part_of(logits, above), shape)};
    clean(found, prompts);
    if (refine_) hold(found, prompts);
    if (click && known.logits) {
        // Without a box, a first mask is often far too large, and a click has to change all of it.
        Reach reach{*click, {}, task.geometry().spacing_mm(), refine_ && prompts.box.has_value()};
        for (const auto& p : prompts.points)
            if (p.foreground != click->foreground) reach.opposite.push_back(p.zyx);
        if (prompts.box && !click->foreground) reach.opposite.push_back(prompts.box->centre());
        found = change_near(reach, *known.logits, found);
        if (refine_) hold(found, prompts);  // a click on a voxel that said the opposite before
    }
    const std::size_t count = found.values.values.size();
    if (count >= kMeasuredVoxels) back_s_ = (now_s() - began_s) / static_cast<double>(count);
    return state(std::move(found));
}

// Makes logits heed the image, and returns their grid: a finer one around the object where the window is coarser than
// the volume.
Window Looker::refined(const Task& task, const Window& window, const ObjectPrompts& prompts, Grid<float>& logits,
                       const Chain* chain, const Deadline& deadline) {
    const FinePart part = fine_part(task.geometry(), window, hints_on(window, prompts));
    Window grid = chain ? chain->grid : window.part(part.voxels, part.finer);
    if ((chain || part.finer > 1) && refine_s_ * static_cast<double>(count_of(grid.shape)) > deadline.left_s()) {
        task.given_up.push_back("borders at the volume's resolution");
        grid = window;
    } else if (chain) {
        logits = chain->blended(window, task.geometry().shape());
    } else if (part.finer > 1) {
        logits = finer_grid(logits, part);
    }
    const double began_s = now_s();
    logits = refine_logits(seen(task, grid), logits, hints_on(grid, prompts), engine.threads());
    const std::size_t count = logits.values.size();
    if (count >= kMeasuredVoxels) refine_s_ = (now_s() - began_s) / static_cast<double>(count);
    return grid;
}

double Looker::placing_s(const Task& task, const Window& window, const ObjectPrompts& prompts,
                         const ObjectState& known) const {
    double refined_voxels = 0, placed_voxels = 0;
    const Region* region = known.region();
    if (refine_ && known.chain) {
        refined_voxels = static_cast<double>(count_of(known.chain->grid.shape));
    } else if (refine_) {
        const FinePart part = fine_part(task.geometry(), window, hints_on(window, prompts));
        refined_voxels = static_cast<double>(count_of(window.part(part.voxels, part.finer).shape));
    }
    if (region) {
        placed_voxels = voxels(*region);
    } else if (prompts.box) {
        placed_voxels = 1;
        for (int a = 0; a < 3; ++a)
            placed_voxels *= static_cast<double>(prompts.box->last[a] - prompts.box->first[a] + 1);
    } else {
        placed_voxels = voxels(window.inside(task.geometry().shape())) / std::pow(1 + 2 * task.framing.margin, 3);
    }
    return refine_s_ * refined_voxels + back_s_ * placed_voxels;
}

// The window, or one of the same field and fewer voxels that there is time for.
Window Looker::affordable(const Task& task, const Window& window, const Deadline& deadline) {
    if (cautious_s(window) <= deadline.left_s()) return window;
    Framing whole = task.framing;
    whole.margin = 0;
    Faces faces{window.start, window.stop()};
    for (int a = 0; a < 3; ++a) {
        faces.low[a] = std::max(faces.low[a], 0.0);
        faces.high[a] = std::min(faces.high[a], static_cast<double>(task.geometry().shape()[a]));
    }
    Window coarser = window;
    const auto counts = sizes(whole);
    if (counts.size() > 1) task.given_up.push_back("a finer window");
    for (auto count = counts.begin() + 1; count != counts.end(); ++count) {
        whole.voxels = *count;
        coarser = frame(task.geometry(), faces, whole);
        if (cautious_s(coarser) <= deadline.left_s()) break;
    }
    return coarser;
}

// Seconds of a look into a window, at the 95th percentile.
double Looker::cautious_s(const Window& window) const {
    return (embeddings_.holds(window) ? 0 : engine.encode_s(window.shape, true)) + engine.decode_s(window.shape, true);
}

// Seconds of further clicks in an object's window, at the 95th percentile.
double Looker::clicks_s(const ObjectState& known, std::size_t clicks) const {
    if (!known.window) return 0;
    const double back_s = known.logits ? back_s_ * voxels(known.logits->region) : 0;
    const double decode_s = known.decodes_a_click() * engine.decode_s(known.window->shape, true);
    return static_cast<double>(clicks) * (decode_s + back_s);
}

// Logits on the window's grid.
Grid<float> Looker::look(const Task& task, const Window& window, const NetworkPoints& points,
                         const Deadline& deadline) {
    auto embedding = embeddings_.get(window);
    if (!embedding) {
        embedding = engine.encode(seen(task, window), deadline);
        embeddings_.put(window, embedding);
        ++encodes;
    }
    std::vector<float> coords;
    for (const auto& zyx : points.coords) {
        const auto local = window.to_window(zyx);
        for (int a = 0; a < 3; ++a)
            coords.push_back(std::min(std::max(local[a], 0.0f), static_cast<float>(window.shape[a]) - 1));
    }
    ++decodes;
    return engine.decode(*embedding, coords, points.labels, deadline);
}

// The image on the window's grid; of the window before it is kept.
const Grid<float>& Looker::seen(const Task& task, const Window& window) {
    if (!latest_ || !(latest_->first == window)) latest_.emplace(window, window.sample(task.volume, task.range));
    return latest_->second;
}

}  // namespace gstk::impl
