// What every engine does: check what it is given, hand it to its backend, own what it holds. Mirrors
// gstk.engines.base and gstk.engines.select.
//
// Axis letters: B objects, N points, H W D voxels of the region, in the order (z,y,x).
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "bundle.hpp"
#include "deadline.hpp"

namespace gstk::impl {

// Labels of points beside and on an object that is of no trained class: this and the next.
constexpr std::int64_t kFirstNovelLabel = 4;

// An encoded region. It stays where the engine put it and is of use to that engine only.
struct Embedding {
    std::uint64_t engine_id;
    Shape roi_shape;
    std::shared_ptr<void> handle;  // the backend's own object
    std::size_t size_bytes;        // memory that it holds, for a cache to count
};

// Calls from several threads are safe: one region is encoded and one decoded at a time, and a decode does not wait for
// an encode. A call whose wait is over throws `TimeUp`, or GSTK_ERROR_CANCELLED.
class Engine {
  public:
    virtual ~Engine() = default;

    // Encodes a region, float32 (z,y,x) in 0–1, once for any number of `decode` calls.
    std::shared_ptr<const Embedding> encode(const float* image, const Shape& shape, const Wait& wait = {});

    // Decodes the prompts of B objects: coords [B,N,3], labels [B,N], logits [B,1,H,W,D] written.
    void decode(const Embedding& embedding, const float* coords, const std::int64_t* labels, std::int64_t objects,
                std::int64_t points, float* logits, const Wait& wait = {});

    const std::string& backend() const { return backend_; }
    const std::string& precision() const { return precision_; }
    const std::string& version() const { return version_; }
    const std::string& device() const { return device_; }
    const Manifest& manifest() const { return bundle_.manifest; }
    // Largest number of points of an object.
    std::int64_t most_points() const { return most_points_; }
    std::string bundle_sha256() const { return bundle_.sha256(); }
    // Processor threads that it was told to keep to, and so should what comes before and after it; 0 for any number.
    int threads() const { return threads_; }
    void keep_to(int threads) { threads_ = threads; }

  protected:
    Engine(std::string backend, Bundle bundle, std::string precision);

    // Fills in the embedding's handle and size. Both this and `run_decoder` throw `TimeUp` when the wait's deadline is
    // there, and whatever they like soon after it was cancelled.
    virtual void run_encoder(const float* image, Embedding& embedding, const Wait& wait) = 0;
    // The logits of B objects, all voxels of each.
    virtual void run_decoder(const Embedding& embedding, const float* coords, const std::int64_t* labels,
                             std::int64_t objects, std::int64_t points, float* logits, const Wait& wait) = 0;

    // Turns whatever a backend throws into one error that says what it was doing.
    void failing_as(const std::string& what, const std::function<void()>& run, const Wait& wait = {}) const;

    std::timed_mutex encoding_, decoding_;
    std::string version_, device_;
    bool is_gpu_ = false;
    std::int64_t most_points_ = INT64_MAX;
    // Voxels that one run of the decoder takes; more objects than fit run in groups, since memory grows with their
    // number and on a processor speed does not.
    std::int64_t decode_voxels_ = 128 * 128 * 128;
    const Bundle bundle_;

  private:
    void check_image(const float* image, const Shape& shape) const;

    const std::uint64_t id_;
    const std::string backend_, precision_;
    int threads_ = 0;
};

struct EngineOptions {
    std::string backend = "auto";
    std::string precision = "auto";  // or one that the bundle holds
    int threads = 0;              // 0 leaves it to the backend
    std::string device = "auto";  // or cpu, cuda, cuda:N
    std::filesystem::path plans;  // folder of TensorRT's plans; empty for where `gstk build` puts them
    std::filesystem::path cache;  // folder of OpenVINO's compiled graphs; empty for none
};

// Backends that this library was built with, the preferred one first.
std::vector<std::string> backends();

// Opens a bundle's folder with a backend.
std::shared_ptr<Engine> open_engine(const std::filesystem::path& bundle, const EngineOptions& options);

}  // namespace gstk::impl
