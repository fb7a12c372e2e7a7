#include "timed_engine.hpp"

#include <algorithm>
#include <cmath>

namespace gstk::impl {
namespace {

constexpr std::size_t kRemembered = 4;

// Runs, and remembers how long that took. A run that was cut short would have taken longer: twice as long, say.
template <class Run>
void timed(RunTimes& times, std::int64_t voxels, Run&& run) {
    const double began_s = now_s();
    try {
        run();
    } catch (const TimeUp&) {
        times.add(voxels, 2 * (now_s() - began_s));
        throw;
    }
    times.add(voxels, now_s() - began_s);
}

}  // namespace

void RunTimes::add(std::int64_t voxels, double seconds) {
    runs_.push_back({static_cast<double>(voxels), seconds});
    if (runs_.size() > kRemembered) runs_.pop_front();
}

double RunTimes::expected_s(std::int64_t voxels) const {
    if (runs_.empty()) return 0;
    const auto size = static_cast<double>(voxels);
    const auto away = [&](const Run& run) { return std::abs(std::log(run.voxels / size)); };
    // Of runs of one size the newest.
    const auto nearest = std::min_element(runs_.rbegin(), runs_.rend(),
                                          [&](const Run& a, const Run& b) { return away(a) < away(b); });
    return nearest->seconds * size / nearest->voxels;
}

std::shared_ptr<const Embedding> TimedEngine::encode(const Grid<float>& image, const Deadline& deadline) {
    std::shared_ptr<const Embedding> embedding;
    timed(encodes_, count_of(image.shape), [&] {
        embedding = engine_->encode(image.values.data(), image.shape, {deadline, &cancellation_});
    });
    return embedding;
}

Grid<float> TimedEngine::decode(const Embedding& embedding, const std::vector<float>& coords,
                                const std::vector<std::int64_t>& labels, const Deadline& deadline) {
    Grid<float> logits(embedding.roi_shape);
    timed(decodes_, count_of(embedding.roi_shape), [&] {
        engine_->decode(embedding, coords.data(), labels.data(), 1, static_cast<std::int64_t>(labels.size()),
                        logits.values.data(), {deadline, &cancellation_});
    });
    return logits;
}

}  // namespace gstk::impl
