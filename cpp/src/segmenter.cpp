#include "segmenter.hpp"

#include <algorithm>

#include "image_refiner.hpp"
#include "window_selection.hpp"

namespace gstk::impl {
namespace {

// Windows that one prompt may try: the first, and wider or narrower ones where the mask does not sit well in it.
constexpr int kMaxWindows = 3;
// Seconds a voxel of the volume that are always kept, for a mask as coarse as its window.
constexpr double kNearestS = 5e-9;

const char* const kNoTiles =
    "the object runs out of the training's patch, and is shown in one coarser window; gstk in Python looks at it in tiles "
    "at the training's resolution, too";

// Whether the network has a resolution, and the window is coarser for an object that does not fit into its patch.
bool runs_out_of_patch(const Call& call, const Window& window) {
    const NetworkImage& source = call.image.source;
    const WindowPolicy& policy = call.image.policy;
    return source.grid && policy.adapts && !source.is_on_grid(window) && count_of(source.patch_zyx) <= policy.max_voxels;
}

// The prompts with the first so many of their points.
ObjectPrompts first_of(const ObjectPrompts& prompts, std::size_t points) {
    const auto end = prompts.points.begin() + static_cast<std::ptrdiff_t>(points);
    return {{prompts.points.begin(), end}, prompts.box, prompts.is_novel};
}

// The points from that one on.
ObjectPrompts rest_of(const ObjectPrompts& prompts, std::size_t from) {
    const auto begin = prompts.points.begin() + static_cast<std::ptrdiff_t>(from);
    return {{begin, prompts.points.end()}, prompts.box, prompts.is_novel};
}

// Prompts in voxel coordinates of a window.
LocalPrompts local_prompts(const Window& window, const ObjectPrompts& prompts) {
    const auto local = [&](const Triple& zyx) {
        const auto at = window.to_window(zyx);
        return Triple{at[0], at[1], at[2]};
    };
    LocalPrompts result;
    for (const auto& p : prompts.points)
        (p.foreground ? result.foreground : result.background).push_back(local(as_triple(p.zyx)));
    if (prompts.box) {
        Triple low = as_triple(prompts.box->first), high = as_triple(prompts.box->last);
        for (int a = 0; a < 3; ++a) {
            low[a] -= 0.5;
            high[a] += 0.5;
        }
        result.box = Faces{local(low), local(high)};
    }
    return result;
}

}  // namespace

void ObjectSegmenter::forget() {
    embeddings_.clear();
    patch_.reset();
}

ObjectState ObjectSegmenter::update(const Call& call, const ObjectState& before, const ObjectPrompts& prompts) {
    const std::size_t count = prompts.points.size();
    ObjectState state;
    state.prompts.box = prompts.box;
    state.prompts.is_novel = prompts.is_novel;
    if (before.is_extended_by(prompts)) state = before;
    try {
        if (prompts.box && !state.logits) state = update_once(call.keeping(clicks_s(call, state, count)), state, nullptr);
        // One click after the other, so that a mask does not depend on whether they were given at once.
        for (std::size_t end = state.prompts.points.size() + 1; end <= count; ++end) {
            const double others_s = clicks_s(call, state, count - end);
            if (end < count && others_s > call.deadline.left_s()) {
                call.skipped("one click after the other; the network was given all of them at once");
                return update_once(call, {prompts, state.window, nullptr, false}, nullptr);
            }
            const ObjectState asked{first_of(prompts, end), state.window, state.logits, false};
            state = update_once(call.keeping(others_s), asked, &prompts.points[end - 1]);
        }
    } catch (const TimeUp&) {
        call.skipped(std::string(state.logits ? "the network's answer to the latest prompts" : "the network's answer") +
                     "; the mask is made from the prompts alone");
        const auto unanswered = rest_of(prompts, state.prompts.points.size());
        Logits mask = fallback_mask(unanswered, call.image.geometry(), state.logits.get());
        enforce_clicks(mask, prompts);
        state.logits = std::make_shared<const Logits>(std::move(mask));
        state.is_fallback = true;
    }
    state.prompts = prompts;
    return state;
}

// The object's mask from all of its prompts: a window that fits, one embedding, one decode. Where there was a mask before,
// a `click` changes only its part of it. Throws `TimeUp` where there is not even a first answer.
ObjectState ObjectSegmenter::update_once(const Call& given, const ObjectState& state, const Point* click) {
    const ObjectPrompts& prompts = state.prompts;
    if (!prompts.can_start()) return {prompts, {}, nullptr, false};  // nothing says where the object is
    const Geometry& geometry = given.image.geometry();
    const auto coords = network_points(prompts).coords;
    const auto is_held = [&](const Triple& zyx) { return state.window->holds(zyx); };
    const bool fits = state.window && std::all_of(coords.begin(), coords.end(), is_held);
    const Window chosen = fits ? *state.window : first_window(geometry, prompts, given.image.policy);
    const Call call = given.keeping(kNearestS * static_cast<double>(count_of(chosen.inside(given.shape()).shape())));
    auto [window, logits] = first_answer(call, chosen, prompts);
    for (int windows = 1; windows < kMaxWindows; ++windows) {
        const auto better = adapt_window(geometry, window, logits, prompts, call.image.policy);
        if (!better) break;
        try {
            if (window_s(*better) > call.deadline.left_s()) throw TimeUp{};
            logits = decode_window(call, *better, prompts);
        } catch (const TimeUp&) {
            call.skipped("a window that suits the mask better");
            break;
        }
        window = *better;
    }
    if (!refine_ && runs_out_of_patch(call, window)) call.compromises.push_back(kNoTiles);
    const Window grid = refine_ ? refine_answer(call, window, prompts, logits) : window;
    return projector_.project(call, state, click, window, grid, logits);
}

// The window, or the finest one of the same field that there is time for by the latest runs, and its logits. Where
// nothing ran yet, the coarsest is run first: it measures the machine, and is the answer if the time is up after it.
std::pair<Window, Grid<float>> ObjectSegmenter::first_answer(const Call& call, const Window& window,
                                                             const ObjectPrompts& prompts) {
    if (!call.deadline.is_set()) return {window, decode_window(call, window, prompts)};
    const auto coarser = coarser_windows(call.image.geometry(), window, call.image.policy);
    std::optional<Grid<float>> coarse;
    if (!engine.is_measured() && !coarser.empty()) coarse = decode_window(call, coarser.back(), prompts);
    Window finest = window;
    for (auto next = coarser.begin(); next != coarser.end() && window_s(finest) > call.deadline.left_s(); ++next)
        finest = *next;
    try {
        if (!(finest == window)) call.skipped("a finer window");
        if (coarse && finest == coarser.back()) return {finest, std::move(*coarse)};
        return {finest, decode_window(call, finest, prompts)};
    } catch (const TimeUp&) {
        if (!coarse) throw;
        if (finest == window) call.skipped("a finer window");
        return {coarser.back(), std::move(*coarse)};
    }
}

// Corrects logits by the image, and returns their grid: a finer one around the object where the window is coarser than
// the volume.
Window ObjectSegmenter::refine_answer(const Call& call, const Window& window, const ObjectPrompts& prompts,
                                         Grid<float>& logits) {
    const FinePart part = fine_part(call.image.geometry(), window, local_prompts(window, prompts));
    Window grid = window.part(part.voxels, part.finer);
    if (part.finer > 1 && refine_cost_.seconds(count_of(grid.shape)) > call.deadline.left_s()) {
        call.skipped("borders at the volume's resolution");
        grid = window;
    } else if (part.finer > 1) {
        logits = finer_grid(logits, part);
    }
    const double began_s = now_s();
    logits = refine_logits(image_patch(call, grid), logits, local_prompts(grid, prompts), engine.threads());
    refine_cost_.measure(count_of(grid.shape), now_s() - began_s);
    return grid;
}

// Logits on the window's grid.
Grid<float> ObjectSegmenter::decode_window(const Call& call, const Window& window, const ObjectPrompts& prompts) {
    const NetworkImage& source = call.image.source;
    auto embedding = embeddings_.get(window);
    if (!embedding) {
        embedding = engine.encode(source.axes.to_network(image_patch(call, window)), call.deadline);
        embeddings_.put(window, embedding);
        ++encodes;
    }
    const auto most = std::min<std::int64_t>(kMostPoints, engine.most_points());
    NetworkPoints points = latest_points(network_points(prompts), static_cast<std::size_t>(most));
    if (prompts.is_novel)
        for (auto& label : points.labels) label += kFirstNovelLabel;
    std::vector<float> coords;
    for (const auto& zyx : points.coords) {
        const auto local = source.point(window, zyx);
        coords.insert(coords.end(), local.begin(), local.end());
    }
    ++decodes;
    return source.axes.to_volume(engine.decode(*embedding, coords, points.labels, call.deadline));
}

// The image on a window's grid.
const Grid<float>& ObjectSegmenter::image_patch(const Call& call, const Window& window) {
    if (!patch_ || !(patch_->first == window))
        patch_.emplace(window, call.image.source.patch(window));
    return patch_->second;
}

// Seconds that an answer in a window will take.
double ObjectSegmenter::window_s(const Window& window) const {
    return (embeddings_.holds(window) ? 0 : engine.encode_s(count_of(window.shape))) + engine.decode_s(count_of(window.shape));
}

// Seconds that so many more clicks on an object will take.
double ObjectSegmenter::clicks_s(const Call& call, const ObjectState& state, std::size_t clicks) const {
    const std::int64_t voxels = state.window ? count_of(state.window->shape) : call.image.policy.max_voxels;
    const double resample_s = state.logits ? projector_.resample.seconds(count_of(state.logits->region.shape())) : 0;
    return static_cast<double>(clicks) * (engine.decode_s(voxels) + resample_s);
}

}  // namespace gstk::impl
