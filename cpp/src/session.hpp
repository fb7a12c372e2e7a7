// An interactive session: an image, prompts on its objects, and a mask after each of them; mirrors gstk.session.session.
// It does what the Python session does without extras and without a budget; its time limit is kept by the clock.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "segmenter.hpp"

namespace gstk::impl {

struct SessionOptions {
    WindowPolicy policy;  // how windows are chosen where there is time
    bool refine = false;  // whether the image corrects the network's logits; see image_refiner.hpp
    std::size_t cache_bytes = kDefaultCacheBytes;         // memory for embeddings
    std::size_t history_bytes = std::size_t{1} << 29;     // memory for masks to go back to; older ones are recomputed
};

// What the latest call that made a mask took, and what it skipped to stay in time.
struct CallReport {
    double limit_s = 0;  // 0 is none
    double spent_s = 0;
    std::int64_t encodes = 0, decodes = 0;
    bool is_fallback = false;  // the mask is not the network's answer to all of the prompts
    std::shared_ptr<const std::string> compromises = std::make_shared<const std::string>();  // a sentence a line
};

// How the image was prepared; see gstk_image_report. The texts are the session's, until its next image.
struct ImageReport {
    const char* profile;
    const char* intensities;
    const char* warnings;
};

// Safe to call from several threads, one at a time.
class Session {
  public:
    Session(std::shared_ptr<Engine> engine, const SessionOptions& options)
        : options_(options), segmenter_(std::move(engine), options.cache_bytes, options.refine) {}

    void set_image(std::shared_ptr<const Volume> volume, const ImageOptions& options = {});
    // is_novel: the object is of no class that the network was trained on; it stays so until `reset`.
    Region add_point(const Triple& zyx, bool foreground, std::int64_t object_id, bool is_novel = false);
    Region add_box(const Box& box, std::int64_t object_id);
    // Replaces all prompts of an object. The same prompts again change nothing.
    Region set_prompts(const ObjectPrompts& prompts, std::int64_t object_id);
    // Takes back the latest change of any object's prompts. It is bound by no time limit.
    Region undo();
    // Does again what `undo` took back last; a new prompt or a reset forgets it.
    Region redo();
    // Forgets an object, or with 0 all of them.
    void reset(std::int64_t object_id);
    // Copies a part of the labels, or all of them; `count` must be its voxels.
    void read_mask(const Region* part, std::uint16_t* mask, std::size_t count);
    std::optional<Window> window(std::int64_t object_id);

    // Seconds of each call from the next one on; 0 is any number. Waits for no call.
    void set_time_limit(double seconds);
    // Ends the call under way, which throws GSTK_ERROR_CANCELLED and changes nothing. Waits for no call.
    void cancel() { segmenter_.engine.cancel(); }
    CallReport report();
    ImageReport image_report();

    struct Counts {
        std::int64_t encodes = 0, decodes = 0;
    };
    Counts counts();

  private:
    const Profile& profile() const { return segmenter_.engine.manifest().profile; }
    ImageState& current();
    ObjectState object(std::int64_t object_id);
    Region replace_prompts(std::int64_t object_id, const ObjectPrompts& prompts);
    ObjectState restored(const ObjectState& kept);
    ObjectState updated(const ObjectState& before, const ObjectPrompts& prompts, double limit_s);

    const SessionOptions options_;
    ObjectSegmenter segmenter_;
    std::atomic<double> limit_s_{0};
    CallReport report_;
    std::unique_ptr<ImageState> image_;
    std::mutex mutex_;
};

}  // namespace gstk::impl
