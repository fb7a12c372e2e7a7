// An image, clicks and boxes on its objects, and a mask after each of them; mirrors gstk.session.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "looking.hpp"
#include "planner.hpp"

namespace gstk::impl {

struct SessionOptions {
    Framing framing;                    // how windows are made where there is time
    bool refine = false;                // whether the image and the clicks correct the network's logits; see refine.hpp
    std::optional<LatencyModel> model;  // what calls cost; without one a limit is kept by the clock alone
    std::size_t cache_bytes = kDefaultCacheBytes;  // memory for embeddings
};

// What the latest call that made a mask was expected to take, what it took, and what was done for want of time.
struct CallReport {
    double limit_s = 0;     // 0 is none
    double expected_s = 0;  // 0 without a latency model
    double spent_s = 0;
    std::int64_t encodes = 0, decodes = 0;
    bool guessed = false;  // the mask is not the network's answer to all that was said
    std::shared_ptr<const std::string> given_up = std::make_shared<const std::string>();  // a sentence a line
};

// Safe to call from several threads, one at a time.
class Session {
  public:
    Session(std::shared_ptr<Engine> engine, SessionOptions options);

    void set_image(std::shared_ptr<const Volume> volume);
    Region add_point(const Triple& zyx, bool foreground, std::int64_t object_id);
    Region add_box(const Box& box, std::int64_t object_id);
    Region set_prompts(const ObjectPrompts& prompts, std::int64_t object_id);
    Region undo();
    // Forgets an object, or with 0 all of them.
    void reset(std::int64_t object_id);
    // Copies a part of the labels, or all of them; `count` must be its voxels.
    void read_mask(const Region* part, std::uint16_t* mask, std::size_t count);
    std::optional<Window> window(std::int64_t object_id);

    // Seconds of each call from the next one on; 0 is any number. Waits for no call.
    void set_time_limit(double seconds);
    // Ends the call under way, which throws GSTK_ERROR_CANCELLED and changes nothing. Waits for no call.
    void cancel() { looker_.engine.cancel(); }
    CallReport report();

    struct Counts {
        std::int64_t encodes = 0, decodes = 0;
    };
    Counts counts();

  private:
    // Everything that belongs to one image; `set_image` replaces it whole.
    struct Image {
        std::shared_ptr<const Volume> volume;
        IntensityRange range;
        Framing framing;
        std::map<std::int64_t, ObjectState> objects;
        std::vector<std::pair<std::int64_t, ObjectState>> history;  // what `undo` goes back to
        std::optional<Grid<std::uint16_t>> labels;

        const Geometry& geometry() const { return volume->geometry; }
    };

    Image& current();
    ObjectState object(std::int64_t object_id);
    Region say(std::int64_t object_id, const ObjectPrompts& prompts);
    ObjectState answer(Image& image, const ObjectState& known, const ObjectPrompts& prompts);
    Plan plan(const Image& image, const ObjectState& known, const ObjectPrompts& prompts, double limit_s);
    static Grid<std::uint16_t> merge(const Image& image);

    const Framing framing_;
    Looker looker_;
    std::atomic<double> limit_s_{0};
    CallReport report_;
    std::unique_ptr<Image> image_;
    std::mutex mutex_;
};

}  // namespace gstk::impl
