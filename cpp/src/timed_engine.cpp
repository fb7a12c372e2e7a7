#include "timed_engine.hpp"

#include <algorithm>
#include <numeric>

namespace gstk::impl {
namespace {

constexpr std::size_t kRemembered = 4;

}  // namespace

double TimedEngine::pace() const {
    if (ratios_.empty()) return 1;
    return std::max(1.0, std::accumulate(ratios_.begin(), ratios_.end(), 0.0) / static_cast<double>(ratios_.size()));
}

double TimedEngine::encode_s(const Shape& shape, bool cautious) const {
    return modelled_encode_s(shape, cautious) * pace();
}

double TimedEngine::decode_s(const Shape& shape, bool cautious) const {
    return modelled_decode_s(shape, 1, cautious) * pace();
}

std::shared_ptr<const Embedding> TimedEngine::encode(const Grid<float>& image, const Deadline& deadline) {
    std::shared_ptr<const Embedding> found;
    timed(modelled_encode_s(image.shape, false), [&] {
        found = engine_->encode(image.values.data(), image.shape, {deadline, &cancellation_});
    });
    encoded_.insert(image.shape);
    return found;
}

Grid<float> TimedEngine::decode(const Embedding& embedding, const std::vector<float>& coords,
                                const std::vector<std::int64_t>& labels, const Deadline& deadline) {
    Grid<float> logits(embedding.roi_shape);
    const auto points = static_cast<std::int64_t>(labels.size());
    timed(modelled_decode_s(embedding.roi_shape, points, false), [&] {
        engine_->decode(embedding, coords.data(), labels.data(), 1, points, logits.values.data(),
                        {deadline, &cancellation_});
    });
    decoded_.insert(embedding.roi_shape);
    return logits;
}

double TimedEngine::modelled_encode_s(const Shape& shape, bool cautious) const {
    return model_ ? model_->encode_s(shape, !encoded_.count(shape), cautious) : 0;
}

double TimedEngine::modelled_decode_s(const Shape& shape, std::int64_t points, bool cautious) const {
    return model_ ? model_->decode_s(shape, 1, points, !decoded_.count(shape), cautious) : 0;
}

template <class Run>
void TimedEngine::timed(double modelled_s, Run&& run) {
    const double began_s = now_s();
    run();
    if (modelled_s <= 0) return;
    ratios_.push_back((now_s() - began_s) / modelled_s);
    if (ratios_.size() > kRemembered) ratios_.pop_front();
}

}  // namespace gstk::impl
