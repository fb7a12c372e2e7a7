// An engine whose calls end when their time is up, and what they will take by the latest ones; mirrors
// gstk.session.deadline.
#pragma once

#include <deque>
#include <memory>

#include "engine.hpp"

namespace gstk::impl {

// How long the latest runs of one kind took, and what that says of the next one.
class RunTimes {
  public:
    void add(std::int64_t voxels, double seconds);
    // Seconds of a run of so many voxels, in proportion to the remembered run of the nearest size; 0 before the first.
    double expected_s(std::int64_t voxels) const;
    bool empty() const { return runs_.empty(); }

  private:
    struct Run {
        double voxels, seconds;
    };
    std::deque<Run> runs_;  // the latest, the newest last
};

class TimedEngine {
  public:
    explicit TimedEngine(std::shared_ptr<Engine> engine) : engine_(std::move(engine)) {}

    int threads() const { return engine_->threads(); }
    const Manifest& manifest() const { return engine_->manifest(); }
    std::int64_t most_points() const { return engine_->most_points(); }

    // Whether anything ran yet, so that the next two say something.
    bool is_measured() const { return !encodes_.empty() && !decodes_.empty(); }
    // Seconds that an encode of so many voxels, or a decode of one object, will take; 0 where nothing is known.
    double encode_s(std::int64_t voxels) const { return encodes_.expected_s(voxels); }
    double decode_s(std::int64_t voxels) const { return decodes_.expected_s(voxels); }

    // See `Engine`; throws `TimeUp`, or GSTK_ERROR_CANCELLED.
    std::shared_ptr<const Embedding> encode(const Grid<float>& image, const Deadline& deadline);
    // Logits of one object. coords [N,3], labels [N].
    Grid<float> decode(const Embedding& embedding, const std::vector<float>& coords,
                       const std::vector<std::int64_t>& labels, const Deadline& deadline);

    // Forgets a `cancel` that came before.
    void begin() { cancellation_.begin(); }
    // Ends the call under way, from another thread. Other users of the engine are not concerned.
    void cancel() { cancellation_.cancel(); }

  private:
    const std::shared_ptr<Engine> engine_;
    RunTimes encodes_, decodes_;
    Cancellation cancellation_;
};

}  // namespace gstk::impl
