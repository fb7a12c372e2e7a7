#include "tensorrt_runs.hpp"

#include <algorithm>
#include <deque>
#include <mutex>
#include <stdexcept>

#include "error.hpp"

namespace gstk::impl {
namespace {

constexpr std::size_t kKept = 20, kLeastBytes = 256, kGraphs = 16;

// TensorRT returns null or false where it fails, and says why to its logger alone, from any of its threads.
class Log final : public nvinfer1::ILogger {
  public:
    void log(Severity severity, const char* message) noexcept override {
        if (severity != Severity::kERROR && severity != Severity::kINTERNAL_ERROR) return;
        try {
            const std::lock_guard<std::mutex> lock(mutex_);
            if (errors_.size() == kKept) errors_.pop_front();
            errors_.push_back(message);
        } catch (const std::exception&) {  // no memory left for the text
        }
    }

    // The errors since the last call, in one line; what TensorRT did not do, where it gave no reason.
    std::string what_went_wrong(const std::string& task) {
        const std::lock_guard<std::mutex> lock(mutex_);
        std::string found;
        for (const auto& error : errors_) found += (found.empty() ? "" : "; ") + error;
        errors_.clear();
        std::replace(found.begin(), found.end(), '\n', ' ');
        return found.empty() ? "TensorRT did not " + task + ", and gave no reason" : found;
    }

  private:
    std::mutex mutex_;
    std::deque<std::string> errors_;
};

// One for the process and as long as it: TensorRT takes the first that it is given for all of its objects.
Log& logger() {
    static auto& found = *new Log;
    return found;
}

void require(bool is_done, const std::string& task) {
    if (!is_done) throw std::runtime_error(logger().what_went_wrong(task));
}

nvinfer1::Dims as_dims(const Dims& shape) {
    nvinfer1::Dims found{};
    found.nbDims = static_cast<std::int32_t>(shape.size());
    std::copy(shape.begin(), shape.end(), found.d);
    return found;
}

}  // namespace

std::string tensorrt_version() {
    return std::to_string(getInferLibMajorVersion()) + "." + std::to_string(getInferLibMinorVersion()) + "." +
           std::to_string(getInferLibPatchVersion()) + "." + std::to_string(getInferLibBuildVersion());
}

PlanRun::PlanRun(nvinfer1::ICudaEngine& engine, int profile, const cuda::Stream& stream)
    : engine_(engine), profile_(profile) {
    context_.reset(engine_.createExecutionContext(nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED));
    require(context_ != nullptr, "create a context");
    require(context_->setOptimizationProfileAsync(profile_, stream.get()), "choose a profile");
    // The choice may copy to the GPU, and other streams know nothing of it.
    cuda::check(cudaStreamSynchronize(stream.get()));
}

std::size_t PlanRun::shape(const Shapes& shapes, const std::string& output, const Dims& expected) {
    if (shapes == shapes_) return memory_bytes_;
    forget();
    shapes_.clear();
    for (const auto& [name, shape] : shapes)
        require(context_->setInputShape(name.c_str(), as_dims(shape)), "take the shape of " + name);
    const char* missing = nullptr;
    if (context_->inferShapes(1, &missing) != 0)
        throw std::runtime_error("TensorRT wants the shape of " + std::string(missing ? missing : "an input") +
                                 " that the plan's graph does not have");
    const nvinfer1::Dims found = context_->getTensorShape(output.c_str());
    if (found.nbDims < 0 || !std::equal(expected.begin(), expected.end(), found.d, found.d + found.nbDims))
        throw error(GSTK_ERROR_PLAN, "got a plan whose ", output,
                    " would be written beyond the memory for it; build it again with gstk build --rebuild");
    memory_bytes_ = context_->updateDeviceMemorySizeForShapes();
    // 0 also stands for a failure; the profile's largest need is right then.
    if (!memory_bytes_) memory_bytes_ = static_cast<std::size_t>(engine_.getDeviceMemorySizeForProfileV2(profile_));
    memory_bytes_ = std::max(memory_bytes_, kLeastBytes);
    shapes_ = shapes;
    return memory_bytes_;
}

void PlanRun::queue(const cuda::Stream& stream, const std::map<std::string, void*>& addresses,
                    const cuda::Block& memory, bool graph) {
    if (addresses != addresses_ || memory.address() != scratch_ || memory.size_bytes() != scratch_bytes_) {
        forget();
        for (const auto& [name, address] : addresses)
            require(context_->setTensorAddress(name.c_str(), address), "take an address for " + name);
        scratch_ = memory.address();
        scratch_bytes_ = memory.size_bytes();
        context_->setDeviceMemoryV2(scratch_, static_cast<std::int64_t>(scratch_bytes_));
        addresses_ = addresses;
    }
    const auto execute = [&] { require(context_->enqueueV3(stream.get()), "run the plan"); };
    if (graph && !graph_ && is_flushed_ && can_capture_) try {
            graph_ = cuda::capture(stream, execute);
        } catch (const std::exception&) {
            can_capture_ = false;  // the work is queued without a graph then, where a lost GPU shows, too
        }
    if (graph_) return cuda::check(cudaGraphLaunch(graph_.get(), stream.get()));
    execute();
    is_flushed_ = true;
}

void PlanRun::forget() {
    graph_.reset();
    addresses_.clear();
    is_flushed_ = false;
}

PlanRuns::PlanRuns(const std::string& content, bool code_allowed) {
    runtime_.reset(nvinfer1::createInferRuntime(logger()));
    require(runtime_ != nullptr, "start");
    runtime_->setEngineHostCodeAllowed(code_allowed);
    engine_.reset(runtime_->deserializeCudaEngine(content.data(), content.size()));
    require(engine_ != nullptr, "load the plan");
    require_plain();
}

void PlanRuns::require_plain() const {
    for (std::int32_t i = 0; i < engine_->getNbIOTensors(); ++i) {
        const char* name = engine_->getIOTensorName(i);
        bool is_plain = engine_->getTensorLocation(name) == nvinfer1::TensorLocation::kDEVICE;
        for (std::int32_t profile = 0; profile < engine_->getNbOptimizationProfiles(); ++profile)
            is_plain = is_plain && engine_->getTensorFormat(name, profile) == nvinfer1::TensorFormat::kLINEAR;
        if (!is_plain)
            throw error(GSTK_ERROR_PLAN, "got a plan whose ", name,
                        " is no row-major array in GPU memory; build it again with gstk build --rebuild");
    }
}

bool PlanRuns::is_half(const char* name) const {
    const nvinfer1::DataType type = engine_->getTensorDataType(name);
    if (type != nvinfer1::DataType::kHALF && type != nvinfer1::DataType::kFLOAT)
        throw error(GSTK_ERROR_PLAN, "got a plan whose ", name,
                    " is in neither float32 nor float16; export the bundle and build again");
    return type == nvinfer1::DataType::kHALF;
}

void PlanRuns::require_int64(const char* name) const {
    if (engine_->getTensorDataType(name) != nvinfer1::DataType::kINT64)
        throw error(GSTK_ERROR_PLAN, "got a plan whose ", name, " is not in int64; export the bundle and build again");
}

std::int64_t PlanRuns::side(const char* name, int axis) const {
    return engine_->getTensorShape(name).d[axis];
}

PlanRun* PlanRuns::own(int profile, const Shapes& shapes, const cuda::Stream& stream) {
    const auto [entry, is_new] = own_.try_emplace({profile, shapes});
    Own& own = entry->second;
    own.used = ++uses_;
    if (!is_new && !own.run && has_room_) try {
            own.run = std::make_unique<PlanRun>(*engine_, profile, stream);
        } catch (const std::exception&) {  // a context has memory of its own; the profile's serves all shapes
            has_room_ = false;
        }
    while (own_.size() > kGraphs) {
        const auto oldest = std::min_element(own_.begin(), own_.end(), [](const auto& a, const auto& b) {
            return a.second.used < b.second.used;
        });
        if (oldest->second.run) cuda::check(cudaStreamSynchronize(stream.get()));
        own_.erase(oldest);
    }
    return own.run.get();
}

PlanRun& PlanRuns::run(int profile, const cuda::Stream& stream) {
    const auto found = runs_.find(profile);
    if (found != runs_.end()) return found->second;
    return runs_
        .emplace(std::piecewise_construct, std::forward_as_tuple(profile),
                 std::forward_as_tuple(*engine_, profile, stream))
        .first->second;
}

}  // namespace gstk::impl
