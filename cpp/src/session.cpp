#include "session.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "overlaps.hpp"

namespace gstk::impl {
namespace {

// Share of a call's time that is kept for what comes after the network, besides the mask's way back.
constexpr double kMargin = 0.02;
// Seconds a voxel of the volume that are kept besides, to put objects into one label map.
constexpr double kAfterS = 1.5e-8;
// Memory for masks to go back to; those before them are made again when somebody does.
constexpr std::size_t kHistoryBytes = std::size_t{1} << 29;

Deadline deadline_of(double limit_s, const Geometry& geometry) {
    if (limit_s == 0) return {};
    const double after_s = kMargin * limit_s + kAfterS * static_cast<double>(count_of(geometry.shape()));
    return Deadline(std::max(limit_s / 2, limit_s - after_s));
}

}  // namespace

Session::Session(std::shared_ptr<Engine> engine, SessionOptions options)
    : framing_(options.framing),
      looker_(std::move(engine), std::move(options.model), options.cache_bytes, options.refine) {}

void Session::set_image(std::shared_ptr<const Volume> volume) {
    volume->require_finite();
    auto image = std::make_unique<Image>();
    image->range = intensity_range(*volume);
    image->volume = std::move(volume);
    image->framing = framing_;
    // What was there before goes when the lock is gone: letting go of its volume may call the host.
    const std::lock_guard<std::mutex> lock(mutex_);
    std::swap(image_, image);
    looker_.forget();
}

Region Session::add_point(const Triple& zyx, bool foreground, std::int64_t object_id) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const Geometry& geometry = current().geometry();
    const auto voxel = geometry.nearest_voxel(zyx);
    if (!voxel)
        throw error(GSTK_ERROR_PROMPT, "got a click at ", text(zyx), ", expected (z, y, x) inside the image of ",
                    text(geometry.shape()));
    ObjectPrompts prompts = object(object_id).prompts;
    prompts.points.push_back({*voxel, foreground});
    return say(object_id, prompts);
}

Region Session::add_box(const Box& box, std::int64_t object_id) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const Geometry& geometry = current().geometry();
    box.check();
    if (!geometry.contains(box.first) || !geometry.contains(box.last))
        throw error(GSTK_ERROR_PROMPT, "got a box of corners ", text(box.first), " and ", text(box.last),
                    ", expected it inside the image of ", text(geometry.shape()));
    ObjectPrompts prompts = object(object_id).prompts;
    prompts.box = box;
    return say(object_id, prompts);
}

Region Session::set_prompts(const ObjectPrompts& prompts, std::int64_t object_id) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const Geometry& geometry = current().geometry();
    std::vector<Voxel> voxels;
    if (prompts.box) {
        prompts.box->check();
        voxels = {prompts.box->first, prompts.box->last};
    }
    for (const auto& p : prompts.points) voxels.push_back(p.zyx);
    for (const auto& voxel : voxels)
        if (!geometry.contains(voxel))
            throw error(GSTK_ERROR_PROMPT, "got a prompt at ", text(voxel), ", expected it inside the image of ",
                        text(geometry.shape()));
    return say(object_id, prompts);
}

Region Session::undo() {
    const std::lock_guard<std::mutex> lock(mutex_);
    Image& image = current();
    if (image.history.empty()) throw error(GSTK_ERROR_PROMPT, "got undo, expected a click or box before it");
    const std::int64_t object_id = image.history.back().first;
    ObjectState before = image.history.back().second;
    const ObjectState after = object(object_id);
    if (!before.logits && before.prompts.can_start()) before = answer(image, {}, before.prompts);  // memory ran short
    const Region changed = merged(before.region(), after.region());
    image.history.pop_back();
    image.objects[object_id] = std::move(before);
    image.labels.reset();
    return changed;
}

void Session::reset(std::int64_t object_id) {
    const std::lock_guard<std::mutex> lock(mutex_);
    Image& image = current();
    if (object_id == 0)
        image.objects.clear();
    else
        image.objects.erase(object_id);
    auto& history = image.history;
    const auto gone = [&](const auto& entry) { return !image.objects.count(entry.first); };
    history.erase(std::remove_if(history.begin(), history.end(), gone), history.end());
    image.labels.reset();
}

void Session::read_mask(const Region* part, std::uint16_t* mask, std::size_t count) {
    const std::lock_guard<std::mutex> lock(mutex_);
    Image& image = current();
    const Shape& shape = image.geometry().shape();
    const Region region = part ? *part : Region{{}, shape};
    for (int a = 0; a < 3; ++a)
        if (region.start[a] < 0 || region.stop[a] < region.start[a] || region.stop[a] > shape[a])
            throw error(GSTK_ERROR_ARGUMENT, "got a region from ", text(region.start), " to ", text(region.stop),
                        ", expected it inside the image of ", text(shape));
    if (count != static_cast<std::size_t>(count_of(region.shape())))
        throw error(GSTK_ERROR_ARGUMENT, "got a buffer of ", count, " voxels, expected ", count_of(region.shape()),
                    " for a mask of ", text(region.shape()));
    if (!image.labels) image.labels = merge(image);
    for (std::int64_t z = region.start[0]; z < region.stop[0]; ++z)
        for (std::int64_t y = region.start[1]; y < region.stop[1]; ++y) {
            const auto* line = image.labels->line(z, y);
            mask = std::copy(line + region.start[2], line + region.stop[2], mask);
        }
}

std::optional<Window> Session::window(std::int64_t object_id) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return object(object_id).window;
}

void Session::set_time_limit(double seconds) {
    if (!(seconds >= 0) || !std::isfinite(seconds))
        throw error(GSTK_ERROR_ARGUMENT, "got a time limit of ", seconds,
                    " s, expected seconds above 0, or 0 for none");
    limit_s_ = seconds;
}

CallReport Session::report() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return report_;
}

Session::Counts Session::counts() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return {looker_.encodes, looker_.decodes};
}

Session::Image& Session::current() {
    if (!image_) throw error(GSTK_ERROR_STATE, "got a call on a session without an image, expected set_image first");
    return *image_;
}

ObjectState Session::object(std::int64_t object_id) {
    constexpr std::int64_t kLast = std::numeric_limits<std::uint16_t>::max();
    if (object_id < 1 || object_id > kLast)
        throw error(GSTK_ERROR_PROMPT, "got object id ", object_id, ", expected 1 to ", kLast);
    const auto& objects = current().objects;
    const auto found = objects.find(object_id);
    return found == objects.end() ? ObjectState{} : found->second;
}

// Makes an object's prompts these.
Region Session::say(std::int64_t object_id, const ObjectPrompts& prompts) {
    Image& image = current();
    ObjectState known = object(object_id);
    ObjectState following = answer(image, known, prompts);
    const Region changed = merged(known.region(), following.region());
    image.history.emplace_back(object_id, std::move(known));
    std::size_t bytes = 0;
    for (auto entry = image.history.rbegin(); entry != image.history.rend(); ++entry) {
        bytes += entry->second.size_bytes();
        if (bytes <= kHistoryBytes || !entry->second.logits) continue;
        bytes -= entry->second.size_bytes();
        entry->second.logits.reset();
        entry->second.chain.reset();
    }
    image.objects[object_id] = std::move(following);
    image.labels.reset();
    return changed;
}

// An object after its prompts, in time, and the report of that.
ObjectState Session::answer(Image& image, const ObjectState& known, const ObjectPrompts& prompts) {
    const double began_s = now_s(), limit_s = limit_s_;
    const Deadline deadline = deadline_of(limit_s, image.geometry());
    const std::int64_t encodes = looker_.encodes, decodes = looker_.decodes;
    looker_.engine.begin();
    Plan planned = plan(image, known, prompts, limit_s);
    const Framing framing = planned.window ? planned.framing : image.framing;
    std::vector<std::string> given_up = std::move(planned.given_up);
    const Task task{*image.volume, image.range, framing, given_up, planned.chained};
    double expected_s = planned.expected_s;
    const auto& window = planned.window ? planned.window : known.window;
    if (window && looker_.engine.model()) {
        const double decode_s = planned.window ? 0 : known.decodes_a_click() * looker_.engine.decode_s(window->shape);
        const double placing_s = looker_.placing_s(task, *window, prompts, known);
        expected_s += static_cast<double>(known.looks_for(prompts)) * (decode_s + placing_s);
        expected_s += looker_.second_looks_s(*window, prompts, known);
    }
    ObjectState following = looker_.follow(task, known, prompts, planned.window, deadline);
    image.framing = framing;
    std::string sentences;
    for (auto sentence = given_up.begin(); sentence != given_up.end(); ++sentence)
        if (std::find(given_up.begin(), sentence, *sentence) == sentence)
            sentences += (sentences.empty() ? "" : "\n") + *sentence;
    report_ = {limit_s,
               expected_s,
               now_s() - began_s,
               looker_.encodes - encodes,
               looker_.decodes - decodes,
               following.guessed,
               std::make_shared<const std::string>(std::move(sentences))};
    return following;
}

// Of an object that has no window yet.
Plan Session::plan(const Image& image, const ObjectState& known, const ObjectPrompts& prompts, double limit_s) {
    Means means;
    means.model = looker_.engine.model();
    means.pace = looker_.engine.pace();
    if (limit_s > 0) means.limit_s = limit_s;
    if (means.model) means.memory_bytes = means.model->base_bytes + free_memory_bytes();
    const bool is_seen = known.window && !known.guessed;
    return make_plan(image.geometry(), is_seen ? ObjectPrompts{} : prompts, framing_, means);
}

// Object ids of all that there is a mask of.
Grid<std::uint16_t> Session::merge(const Image& image) {
    std::map<std::int64_t, Claim> claims;
    for (const auto& [object_id, known] : image.objects) {
        if (!known.logits) continue;
        Claim claim{known.logits, {}, {}};
        for (const auto& p : known.prompts.points)
            if (p.foreground) claim.clicks.push_back(p.zyx);
        if (known.prompts.box) claim.middle = known.prompts.box->centre();
        claims.emplace(object_id, std::move(claim));
    }
    return label_map(image.geometry(), claims);
}

}  // namespace gstk::impl
