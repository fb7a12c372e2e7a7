#include "tensorrt_engine.hpp"

#include <sys/utsname.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstring>
#include <thread>

#include "error.hpp"
#include "failures.hpp"
#include "half.hpp"
#include "point_padding.hpp"
#include "tensorrt_plans.hpp"
#include "tensorrt_runs.hpp"

namespace gstk::impl {
namespace {

// The first version in which a strongly typed network means what it means in 11.
constexpr int kFloorMajor = 10, kFloorMinor = 12;
constexpr std::chrono::microseconds kPoll{100};  // how often a call that waits for the GPU looks
constexpr std::size_t kLeastSlotBytes = 4096;   // so that a few points more do not move memory, which ends graphs

// The GPU that a name stands for: `auto` and `cuda` are the first.
cuda::Device find_device(const std::string& wanted) {
    const auto devices = cuda::devices();
    const std::size_t colon = wanted.find(':');
    const std::size_t index = colon == std::string::npos ? 0 : std::stoul(wanted.substr(colon + 1));
    if (index >= devices.size())
        throw error(GSTK_ERROR_DRIVER, "got device '", wanted, "', but CUDA shows this process ", devices.size(),
                    " GPU(s); take cuda:0 to cuda:", devices.size() - 1);
    return devices[index];
}

std::string system_name() {
    struct utsname about{};
    uname(&about);
    std::string machine = about.machine;
    std::transform(machine.begin(), machine.end(), machine.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    return "linux-" + machine;
}

PlanHost host_of(const cuda::Device& device, const std::string& version) {
    const int cuda = cuda::driver_version();
    return {device.name, {device.major, device.minor}, version, {cuda / 1000, cuda % 1000 / 10}, system_name()};
}

// What is queued of the encoder, or of the decoder: the memory that its copies use, and where it ends.
struct Half {
    cuda::PinnedArea in, labels, out;
    cuda::Event done;
    bool left = false;            // something is queued that nobody waited for
    std::shared_ptr<void> block;  // the embedding that it works with, which its caller may drop meanwhile
};

class TensorRTEngine final : public Engine {
  public:
    TensorRTEngine(Bundle bundle, const EngineOptions& options)
        : Engine("tensorrt", std::move(bundle), options.precision) {
        for (const char* kind : {"encoder", "prompt_decoder"}) bundle_.graph(kind, options.precision);
        is_gpu_ = true;
        decode_voxels_ = INT64_MAX;  // profiles say how many objects fit
        refuse_lost_device();
        failing_as("load the plans of " + bundle_.path.string(), [&] { load(options); });
    }

    ~TensorRTEngine() override {
        if (!stream_ || is_device_lost()) return;
        try {
            const cuda::OnDevice on(device_index_);
            cudaStreamSynchronize(stream_.get());
            plans_ = {};
        } catch (const std::exception&) {  // the GPU was lost meanwhile
        }
    }

  protected:
    void run_encoder(const float* image, Embedding& embedding, const Wait& wait) override {
        const Shape& shape = embedding.roi_shape;
        const int profile = profile_of(shape);
        const cuda::OnDevice on(device_index_);
        Half& half = halves_[0];
        if (half.left) settle(half, wait);
        const auto voxels = static_cast<std::size_t>(count_of(shape));
        const std::size_t image_bytes = put(half.in, image, voxels, image_is_half_);
        const Dims features{1, channels_, shape[0] / 2, shape[1] / 2, shape[2] / 2};
        const std::size_t features_bytes =
            static_cast<std::size_t>(channels_) * voxels / 8 * size_of(embedding_is_half_);
        std::shared_ptr<cuda::Block> block;
        queue(half, [&] {
            PlanRun& run = plans_[0]->run(profile, stream_);
            const Shapes given{{"image", {1, 1, shape[0], shape[1], shape[2]}}};
            const std::size_t scratch = run.shape(given, "embedding", features);
            reserve({{"scratch", scratch}, {"image", image_bytes}});
            block = std::make_shared<cuda::Block>(device_index_, features_bytes);
            half.block = block;
            copy(slot("image"), half.in, image_bytes);
            run.queue(stream_, {{"image", slot("image")}, {"embedding", block->address()}}, *slots_.at("scratch"));
        });
        settle(half, wait);
        embedding.size_bytes = features_bytes;
        embedding.handle = std::move(block);
    }

    void run_decoder(const Embedding& embedding, const float* coords, const std::int64_t* labels, std::int64_t objects,
                     std::int64_t points, float* logits, const Wait& wait) override {
        const Shape& shape = embedding.roi_shape;
        const int profile = profile_of(shape);
        if (points > most_points_)
            throw error(GSTK_ERROR_ENGINE, "got ", points, " points for an object, expected at most ", most_points_,
                        " as the plans were built; build them with gstk build --points ", points);
        PaddedPoints padded;
        if (manifest().ignored_points) {  // a context that is asked for other shapes works them out anew
            padded = pad_points(coords, labels, objects, points, most_points_);
            coords = padded.coords.data();
            labels = padded.labels.data();
            points = padded.points;
        }
        const cuda::OnDevice on(device_index_);
        std::int64_t first = 0, most = profiles_[static_cast<std::size_t>(profile)].objects;
        while (first < objects) {
            const std::int64_t bucket = buckets(objects - first, most).front();
            const std::int64_t count = std::min(bucket, objects - first);
            try {
                decode_group({embedding, coords + 3 * first * points, labels + first * points, count, points}, profile,
                             bucket, logits + first * count_of(shape), wait);
            } catch (const Error& reason) {
                if (reason.code() != GSTK_ERROR_MEMORY || bucket == 1) throw;
                most = bucket / 2;  // the GPU has no memory for so many at once
                continue;
            }
            first += count;
        }
    }

  private:
    struct Question {
        const Embedding& embedding;
        const float* coords;
        const std::int64_t* labels;
        std::int64_t objects, points;
    };

    // The device is asked for before TensorRT is touched: without one it starts, and crashes when it is given a plan.
    void load(const EngineOptions& options) {
        const cuda::Device device = find_device(options.device);
        device_index_ = device.index;
        device_ = "cuda:" + std::to_string(device.index) + ": " + device.name;
        version_ = tensorrt_version();
        if (std::pair(getInferLibMajorVersion(), getInferLibMinorVersion()) < std::pair(kFloorMajor, kFloorMinor))
            throw error(GSTK_ERROR_BACKEND_MISSING, "got TensorRT ", version_, ", expected ", kFloorMajor, ".",
                        kFloorMinor, " or newer; install it");
        const PlanPair found = find_plans(bundle_, options.precision, host_of(device, version_), options.plans);
        profiles_ = found.encoder.profiles;
        most_points_ = found.encoder.points;
        const cuda::OnDevice on(device_index_);
        stream_ = cuda::make_stream();
        for (auto& half : halves_) half.done = cuda::make_event();
        std::size_t index = 0;
        for (const BuiltPlan* plan : {&found.encoder, &found.decoder})
            plans_[index++] = std::make_unique<PlanRuns>(read_plan(*plan), plan->is_version_compatible);
        image_is_half_ = plans_[0]->is_half("image");
        embedding_is_half_ = plans_[0]->is_half("embedding");
        coords_are_half_ = plans_[1]->is_half("point_coords");
        logits_are_half_ = plans_[1]->is_half("logits");
        plans_[1]->require_int64("point_labels");
        channels_ = plans_[0]->side("embedding", 1);
        if (plans_[1]->is_half("embedding") != embedding_is_half_)
            throw error(GSTK_ERROR_PLAN,
                        "got an encoder and a decoder with embeddings of two types, expected one; "
                        "export and build again");
    }

    int profile_of(const Shape& shape) const {
        const int found = find_profile(profiles_, shape);
        if (found < 0)
            throw error(GSTK_ERROR_ENGINE, "got a region of ", text(shape), ", expected one of ", text(profiles_),
                        " as the plans were built; pad or crop it, or build for it with gstk build --roi or --wide");
        return found;
    }

    // Decodes some objects, `bucket` of them with repeats of the last: objects do not know of each other, so what comes
    // of those is left.
    void decode_group(const Question& question, int profile, std::int64_t bucket, float* logits, const Wait& wait) {
        const Shape& shape = question.embedding.roi_shape;
        Half& half = halves_[1];
        if (half.left) settle(half, wait);
        const auto per_object = static_cast<std::size_t>(question.points);
        const auto repeated = [&](const auto* values, std::size_t each) {
            std::vector<std::remove_const_t<std::remove_pointer_t<decltype(values)>>> found;
            for (std::int64_t b = 0; b < bucket; ++b) {
                const auto* from = values + static_cast<std::size_t>(std::min(b, question.objects - 1)) * each;
                found.insert(found.end(), from, from + each);
            }
            return found;
        };
        const auto coords = repeated(question.coords, 3 * per_object);
        const auto labels = repeated(question.labels, per_object);
        const std::size_t coords_bytes = put(half.in, coords.data(), coords.size(), coords_are_half_);
        const std::size_t labels_bytes = labels.size() * sizeof(std::int64_t);
        std::memcpy(half.labels.reserve(labels_bytes), labels.data(), labels_bytes);
        const auto voxels = static_cast<std::size_t>(count_of(shape));
        const std::size_t object_bytes = voxels * size_of(logits_are_half_);
        const std::size_t wanted_bytes = static_cast<std::size_t>(question.objects) * object_bytes;
        void* landing = half.out.reserve(wanted_bytes);
        const Shapes shapes{{"embedding", {1, channels_, shape[0] / 2, shape[1] / 2, shape[2] / 2}},
                            {"point_coords", {bucket, question.points, 3}},
                            {"point_labels", {bucket, question.points}}};
        queue(half, [&] {
            PlanRun* const own = plans_[1]->own(profile, shapes, stream_);
            PlanRun& run = own ? *own : plans_[1]->run(profile, stream_);
            const std::size_t scratch = run.shape(shapes, "logits", {bucket, 1, shape[0], shape[1], shape[2]});
            reserve({{"scratch", scratch},
                     {"embedding", question.embedding.size_bytes},
                     {"coords", coords_bytes},
                     {"labels", labels_bytes},
                     {"logits", static_cast<std::size_t>(bucket) * object_bytes}});
            copy(slot("coords"), half.in, coords_bytes);
            copy(slot("labels"), half.labels, labels_bytes);
            half.block = question.embedding.handle;
            if (in_slot_.lock() != half.block) {  // one address for all embeddings, as a graph has it
                in_slot_.reset();
                const auto& features = *static_cast<cuda::Block*>(half.block.get());
                cuda::check(cudaMemcpyAsync(slot("embedding"), features.address(), features.size_bytes(),
                                            cudaMemcpyDefault, stream_.get()));
                in_slot_ = half.block;
            }
            run.queue(stream_,
                      {{"embedding", slot("embedding")},
                       {"point_coords", slot("coords")},
                       {"point_labels", slot("labels")},
                       {"logits", slot("logits")}},
                      *slots_.at("scratch"), own != nullptr);
            cuda::check(cudaMemcpyAsync(landing, slot("logits"), wanted_bytes, cudaMemcpyDefault, stream_.get()));
        });
        settle(half, wait);
        const std::size_t count = static_cast<std::size_t>(question.objects) * voxels;
        if (logits_are_half_)
            std::transform(static_cast<std::uint16_t*>(landing), static_cast<std::uint16_t*>(landing) + count, logits,
                           from_half);
        else
            std::copy_n(static_cast<float*>(landing), count, logits);
    }

    static std::size_t size_of(bool is_half) { return is_half ? sizeof(std::uint16_t) : sizeof(float); }

    // Values in pinned memory, in the type that a plan takes; returns their bytes.
    static std::size_t put(cuda::PinnedArea& area, const float* values, std::size_t count, bool is_half) {
        const std::size_t bytes = count * size_of(is_half);
        void* target = area.reserve(bytes);
        if (is_half)
            std::transform(values, values + count, static_cast<std::uint16_t*>(target), to_half);
        else
            std::copy_n(values, count, static_cast<float*>(target));
        return bytes;
    }

    // Queues a half's work, and behind it what tells that it is done.
    template <class Work>
    void queue(Half& half, Work&& work) {
        const std::lock_guard<std::mutex> lock(queue_);
        try {
            work();
            cuda::check(cudaEventRecord(half.done.get(), stream_.get()));
        } catch (...) {
            in_slot_.reset();
            // What was queued before the failure works with the half's memory; a CUDA error that is behind it shows here.
            cuda::check(cudaStreamSynchronize(stream_.get()));
            throw;
        }
        half.left = true;
    }

    // Waits for what a half has queued. A call whose time is up leaves it: the GPU cannot be stopped, but what it works
    // with stays.
    static void settle(Half& half, const Wait& wait) {
        for (;;) {
            const cudaError_t state = cudaEventQuery(half.done.get());
            if (state != cudaErrorNotReady) {
                half.left = false;
                half.block.reset();
                return cuda::check(state);
            }
            wait.check();
            std::this_thread::sleep_for(kPoll);
        }
    }

    void copy(void* target, cuda::PinnedArea& source, std::size_t bytes) {
        cuda::check(cudaMemcpyAsync(target, source.reserve(bytes), bytes, cudaMemcpyDefault, stream_.get()));
    }

    void* slot(const char* name) const { return slots_.at(name)->address(); }

    // Makes room of at least these sizes in memory that both plans use in turn; a slot moves when it has to grow.
    void reserve(const std::map<std::string, std::size_t>& sizes) {
        std::vector<std::string> moved;
        for (const auto& [name, size] : sizes)
            if (!slots_.count(name) || slots_.at(name)->size_bytes() < size) moved.push_back(name);
        if (moved.empty()) return;
        cuda::check(cudaStreamSynchronize(stream_.get()));  // what is queued still uses the old ones
        in_slot_.reset();
        for (const auto& name : moved) slots_.erase(name);
        for (const auto& name : moved)
            slots_[name] = std::make_unique<cuda::Block>(device_index_, std::max(sizes.at(name), kLeastSlotBytes));
    }

    int device_index_ = 0;
    std::vector<PlanProfile> profiles_;
    std::int64_t channels_ = 0;
    bool image_is_half_ = false, embedding_is_half_ = false, coords_are_half_ = false, logits_are_half_ = false;

    // All work is queued on one stream, in the order of the queue's lock, so that both plans may use the same memory. A
    // thread holds the lock while it queues, not while it waits.
    std::mutex queue_;
    cuda::Stream stream_;
    std::map<std::string, std::unique_ptr<cuda::Block>> slots_;
    std::weak_ptr<void> in_slot_;                     // the embedding that is in its slot
    std::array<Half, 2> halves_;                      // of encoder and decoder
    std::array<std::unique_ptr<PlanRuns>, 2> plans_;  // likewise
};

}  // namespace

std::shared_ptr<Engine> open_tensorrt(Bundle bundle, const EngineOptions& options) {
    return std::make_shared<TensorRTEngine>(std::move(bundle), options);
}

}  // namespace gstk::impl
