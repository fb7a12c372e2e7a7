// An engine whose calls end when their time is up, and what they are expected to take; mirrors gstk.deadline.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <set>

#include "engine.hpp"
#include "latency.hpp"

namespace gstk::impl {

class TimedEngine {
  public:
    // model: what calls cost; nothing where that is not known.
    TimedEngine(std::shared_ptr<Engine> engine, std::optional<LatencyModel> model)
        : engine_(std::move(engine)), model_(std::move(model)) {}

    int threads() const { return engine_->threads(); }
    const LatencyModel* model() const { return model_ ? &*model_ : nullptr; }

    // How many times longer than the model says the latest calls took, at least 1.
    double pace() const;
    // Seconds that an encode, or a decode of one object and point, will take; 0 where nothing is known.
    double encode_s(const Shape& shape, bool cautious = false) const;
    double decode_s(const Shape& shape, bool cautious = false) const;

    // See `Engine`; throws `TimeUp`, or GSTK_ERROR_CANCELLED.
    std::shared_ptr<const Embedding> encode(const Grid<float>& image, const Deadline& deadline);
    // Logits of one object.
    Grid<float> decode(const Embedding& embedding, const std::vector<float>& coords,
                       const std::vector<std::int64_t>& labels, const Deadline& deadline);

    // Forgets a `cancel` that came before.
    void begin() { cancellation_.begin(); }
    // Ends the call under way, from another thread. Other users of the engine are not concerned.
    void cancel() { cancellation_.cancel(); }

  private:
    double modelled_encode_s(const Shape& shape, bool cautious) const;
    double modelled_decode_s(const Shape& shape, std::int64_t points, bool cautious) const;
    // Runs, and remembers how long that took beside what the model says.
    template <class Run>
    void timed(double modelled_s, Run&& run);

    const std::shared_ptr<Engine> engine_;
    const std::optional<LatencyModel> model_;
    std::deque<double> ratios_;
    std::set<Shape> encoded_, decoded_;  // shapes that were there before
    Cancellation cancellation_;
};

}  // namespace gstk::impl
