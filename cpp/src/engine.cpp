#include "engine.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "error.hpp"
#include "failures.hpp"
#include "point_padding.hpp"

namespace gstk::impl {
namespace {

constexpr std::int64_t kPaddingLabel = -1;
constexpr std::int64_t kLastLabel = 5;
constexpr double kPollS = 0.05;  // how often a call that waits for its turn looks whether it was cancelled

std::uint64_t next_id() {
    static std::atomic<std::uint64_t> serial{0};
    return ++serial;
}

void check_points(const float* coords, const std::int64_t* labels, std::int64_t objects, std::int64_t points,
                  const Shape& roi, const Manifest& manifest) {
    if (objects < 1 || points < 1)
        throw error(GSTK_ERROR_ENGINE, "got coords (", objects, ", ", points,
                    ", 3), expected (B, N, 3) with one object and one point or more");
    for (std::int64_t b = 0; b < objects; ++b) {
        bool any = false;
        for (std::int64_t i = b * points; i < (b + 1) * points; ++i) {
            if (labels[i] < kIgnored || labels[i] > kLastLabel)
                throw error(GSTK_ERROR_ENGINE, "got the label ", labels[i], ", expected values in ", kIgnored, "..",
                            kLastLabel);
            if (labels[i] >= kFirstNovelLabel && !manifest.zero_shot)
                throw error(GSTK_ERROR_ENGINE,
                            "got points of a novel object for a bundle of an older gstk, whose graph has no token for "
                            "them; export it again");
            if (labels[i] == kIgnored && !manifest.ignored_points)
                throw error(GSTK_ERROR_ENGINE, "got points with the label ", kIgnored,
                            " for a bundle of an older gstk, whose graph ignores none; leave them out, or export it "
                            "again");
            const Triple at{coords[3 * i], coords[3 * i + 1], coords[3 * i + 2]};
            if (!std::all_of(at.begin(), at.end(), [](double v) { return std::isfinite(v); }))
                throw error(GSTK_ERROR_ENGINE,
                            "got coords with NaN or infinity, expected voxel indices; padding points may be 0");
            if (labels[i] <= kPaddingLabel) continue;
            any = true;
            for (int a = 0; a < 3; ++a)
                if (at[a] < -0.5 || at[a] > static_cast<double>(roi[a]) - 0.5)
                    throw error(GSTK_ERROR_ENGINE, "got a point at ", text(at),
                                ", expected (z, y, x) inside the region of ", text(roi),
                                "; give voxel indices of the region, not of the volume");
        }
        if (!any)
            throw error(GSTK_ERROR_ENGINE, "got object ", b,
                        " with padding points only, expected a prompt for each; leave it out");
    }
}

// The lock, when it is this call's turn.
std::unique_lock<std::timed_mutex> turn(std::timed_mutex& mutex, const Wait& wait) {
    std::unique_lock<std::timed_mutex> lock(mutex, std::defer_lock);
    do wait.check();
    while (!lock.try_lock_for(std::chrono::duration<double>(std::clamp(wait.deadline.left_s(), 0.0, kPollS))));
    return lock;
}

}  // namespace

Engine::Engine(std::string backend, Bundle bundle, std::string precision)
    : bundle_(std::move(bundle)), id_(next_id()), backend_(std::move(backend)), precision_(std::move(precision)) {}

std::shared_ptr<const Embedding> Engine::encode(const float* image, const Shape& shape, const Wait& wait) {
    check_image(image, shape);
    auto embedding = std::make_shared<Embedding>(Embedding{id_, shape, nullptr, 0});
    const auto lock = turn(encoding_, wait);
    if (is_gpu_) refuse_lost_device();
    failing_as("encode a region of " + text(shape), [&] { run_encoder(image, *embedding, wait); }, wait);
    return embedding;
}

void Engine::decode(const Embedding& embedding, const float* coords, const std::int64_t* labels, std::int64_t objects,
                    std::int64_t points, float* logits, const Wait& wait) {
    if (embedding.engine_id != id_)
        throw error(GSTK_ERROR_ENGINE,
                    "got an embedding of another engine, expected one that this engine's encode returned");
    const Shape& shape = embedding.roi_shape;
    check_points(coords, labels, objects, points, shape, manifest());
    const std::int64_t voxels = count_of(shape), group = std::max<std::int64_t>(1, decode_voxels_ / voxels);
    const auto lock = turn(decoding_, wait);
    if (is_gpu_) refuse_lost_device();
    const auto run = [&] {
        for (std::int64_t first = 0; first < objects; first += group)
            run_decoder(embedding, coords + 3 * first * points, labels + first * points,
                        std::min(group, objects - first), points, logits + first * voxels, wait);
    };
    failing_as("decode " + std::to_string(objects) + " objects in a region of " + text(shape), run, wait);
}

void Engine::check_image(const float* image, const Shape& shape) const {
    const RoiRules& roi = manifest().roi;
    double voxels = 1;  // the product may be larger than any integer
    for (const auto side : shape) {
        if (side < roi.minimum || side % roi.multiple)
            throw error(GSTK_ERROR_ENGINE, "got a region of ", text(shape), ", expected sides that are multiples of ",
                        roi.multiple, " and at least ", roi.minimum, "; pad or crop it");
        voxels *= static_cast<double>(side);
    }
    if (voxels > static_cast<double>(roi.max_voxels))
        throw error(GSTK_ERROR_ENGINE, "got a region of ", text(shape), ", expected at most ", roi.max_voxels,
                    " voxels; crop it or sample it coarser");
    if (!std::all_of(image, image + count_of(shape), [](float v) { return std::isfinite(v); }))
        throw error(GSTK_ERROR_ENGINE,
                    "got an image with NaN or infinity, expected finite values in 0..1; replace them first");
}

void Engine::failing_as(const std::string& what, const std::function<void()>& run, const Wait& wait) const {
    try {
        run();
    } catch (const Error&) {
        throw;
    } catch (const std::bad_alloc&) {
        throw;
    } catch (const std::exception& reason) {
        if (wait.is_cancelled()) wait.check();  // that is why
        throw failure(backend_, what, reason.what());
    }
}

}  // namespace gstk::impl
