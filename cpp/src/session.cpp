#include "session.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace gstk::impl {
namespace {

// Share of a call's time that is kept for what comes after the network and the resampling.
constexpr double kMargin = 0.02;
// Seconds a voxel of the volume that are kept besides, to put objects into one label map.
constexpr double kLabelsS = 1.5e-8;

Deadline deadline_of(double limit_s, const Geometry& geometry) {
    if (limit_s == 0) return {};
    const double after_s = kMargin * limit_s + kLabelsS * static_cast<double>(count_of(geometry.shape()));
    return Deadline(std::max(limit_s / 2, limit_s - after_s));
}

// Each sentence once, a line each.
std::string lines_of(const std::vector<std::string>& sentences) {
    std::string lines;
    for (auto sentence = sentences.begin(); sentence != sentences.end(); ++sentence)
        if (std::find(sentences.begin(), sentence, *sentence) == sentence)
            lines += (lines.empty() ? "" : "\n") + printable(*sentence, 1000);
    return lines;
}

}  // namespace

void Session::set_image(std::shared_ptr<const Volume> volume, const ImageOptions& options) {
    volume->require_finite();
    auto image = std::make_unique<ImageState>(NetworkImage::prepare(std::move(volume), profile(), options), options_.policy);
    image->warnings = lines_of(image->source.warnings);
    // What was there before goes when the lock is gone: letting go of its volume may call the host.
    const std::lock_guard<std::mutex> lock(mutex_);
    std::swap(image_, image);
    segmenter_.forget();
}

Region Session::add_point(const Triple& zyx, bool foreground, std::int64_t object_id, bool is_novel) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const Geometry& geometry = current().geometry();
    const auto voxel = geometry.nearest_voxel(zyx);
    if (!voxel)
        throw error(GSTK_ERROR_PROMPT, "got a click at ", text(zyx), ", expected (z, y, x) inside the image of ",
                    text(geometry.shape()));
    ObjectPrompts prompts = object(object_id).prompts;
    prompts.points.push_back({*voxel, foreground});
    prompts.is_novel = prompts.is_novel || is_novel;
    return replace_prompts(object_id, prompts);
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
    return replace_prompts(object_id, prompts);
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
    return replace_prompts(object_id, prompts);
}

Region Session::undo() {
    const std::lock_guard<std::mutex> lock(mutex_);
    ImageState& image = current();
    if (image.history.empty())
        throw error(GSTK_ERROR_PROMPT, "nothing to undo: expected a click or box before it");
    const auto [object_id, kept] = image.history.back();
    const ObjectState before = restored(kept);
    const ObjectState after = object(object_id);
    image.history.pop_back();
    image.take_back(object_id, after, options_.history_bytes);
    image.put(object_id, before);
    return image.changed_by(before, after);
}

Region Session::redo() {
    const std::lock_guard<std::mutex> lock(mutex_);
    ImageState& image = current();
    if (image.undone.empty()) throw error(GSTK_ERROR_PROMPT, "nothing to redo: expected an undo right before it");
    const auto [object_id, kept] = image.undone.back();
    const ObjectState after = restored(kept);
    auto undone = std::move(image.undone);
    undone.pop_back();
    const ObjectState before = object(object_id);
    image.remember(object_id, before, options_.history_bytes);
    image.undone = std::move(undone);
    image.put(object_id, after);
    return image.changed_by(before, after);
}

void Session::reset(std::int64_t object_id) {
    const std::lock_guard<std::mutex> lock(mutex_);
    ImageState& image = current();
    if (object_id == 0)
        image.objects.clear();
    else
        image.objects.erase(object_id);
    auto& history = image.history;
    const auto gone = [&](const auto& entry) { return !image.objects.count(entry.first); };
    history.erase(std::remove_if(history.begin(), history.end(), gone), history.end());
    image.undone.clear();
    image.labels.reset();
}

void Session::read_mask(const Region* part, std::uint16_t* mask, std::size_t count) {
    const std::lock_guard<std::mutex> lock(mutex_);
    ImageState& image = current();
    const Shape& shape = image.geometry().shape();
    const Region region = part ? *part : Region{{}, shape};
    for (int a = 0; a < 3; ++a)
        if (region.start[a] < 0 || region.stop[a] < region.start[a] || region.stop[a] > shape[a])
            throw error(GSTK_ERROR_ARGUMENT, "got a region from ", text(region.start), " to ", text(region.stop),
                        ", expected it inside the image of ", text(shape));
    if (count != static_cast<std::size_t>(count_of(region.shape())))
        throw error(GSTK_ERROR_ARGUMENT, "got a buffer of ", count, " voxels, expected ", count_of(region.shape()),
                    " for a mask of ", text(region.shape()));
    const auto& labels = image.label_map();
    for (std::int64_t z = region.start[0]; z < region.stop[0]; ++z)
        for (std::int64_t y = region.start[1]; y < region.stop[1]; ++y) {
            const auto* line = labels.line(z, y);
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

ImageReport Session::image_report() {
    const std::lock_guard<std::mutex> lock(mutex_);
    const ImageState& image = current();
    return {profile().name.c_str(), image.source.words.c_str(), image.warnings.c_str()};
}

Session::Counts Session::counts() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return {segmenter_.encodes, segmenter_.decodes};
}

ImageState& Session::current() {
    if (!image_) throw error(GSTK_ERROR_STATE, "got a call on a session without an image, expected set_image first");
    return *image_;
}

ObjectState Session::object(std::int64_t object_id) {
    constexpr std::int64_t kLast = std::numeric_limits<std::uint16_t>::max();
    if (object_id < 1 || object_id > kLast)
        throw error(GSTK_ERROR_PROMPT, "got object id ", object_id, ", expected 1 to ", kLast);
    return current().object(object_id);
}

Region Session::replace_prompts(std::int64_t object_id, const ObjectPrompts& prompts) {
    if (prompts.box || !prompts.points.empty()) profile().require_points();
    const ObjectState before = object(object_id);
    if (prompts == before.prompts) return {};
    const ObjectState after = updated(before, prompts, limit_s_);
    ImageState& image = current();
    image.remember(object_id, before, options_.history_bytes);
    image.put(object_id, after);
    return image.changed_by(before, after);
}

// A state of the history with its mask, which is computed again where it was dropped.
ObjectState Session::restored(const ObjectState& kept) {
    const bool was_dropped = !kept.logits && kept.prompts.can_start();
    return was_dropped ? updated({}, kept.prompts, 0) : kept;
}

// An object after its prompts, and the report on that.
ObjectState Session::updated(const ObjectState& before, const ObjectPrompts& prompts, double limit_s) {
    const double began_s = now_s();
    const std::int64_t encodes = segmenter_.encodes, decodes = segmenter_.decodes;
    std::vector<std::string> compromises;
    segmenter_.engine.begin();
    const ImageState& image = current();
    ObjectState after = segmenter_.update({image, deadline_of(limit_s, image.geometry()), compromises}, before, prompts);
    report_ = {limit_s,
               now_s() - began_s,
               segmenter_.encodes - encodes,
               segmenter_.decodes - decodes,
               after.is_fallback,
               std::make_shared<const std::string>(lines_of(compromises))};
    return after;
}

}  // namespace gstk::impl
