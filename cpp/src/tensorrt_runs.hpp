// A loaded TensorRT plan and its contexts: one for each profile, and one for each CUDA graph. Mirrors
// gstk.engines.tensorrt_runs.
#pragma once

#include <NvInfer.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "cuda.hpp"

namespace gstk::impl {

using Dims = std::vector<std::int64_t>;
using Shapes = std::map<std::string, Dims>;

// Version of the TensorRT library, such as 10.13.0.35.
std::string tensorrt_version();

// A context with the shapes of its inputs. Its memory belongs to whoever calls, and may serve other runs that are
// queued on the same stream.
class PlanRun {
  public:
    PlanRun(nvinfer1::ICudaEngine& engine, int profile, const cuda::Stream& stream);

    // Gives the inputs their shapes; returns the memory in bytes that the run needs besides inputs and outputs. Throws
    // where `output` has another shape than the one that there is memory for.
    std::size_t shape(const Shapes& shapes, const std::string& output, const Dims& expected);

    // Queues one execution with the addresses of all inputs and outputs; no other thread may queue on the stream
    // meanwhile. graph: capture the work as a CUDA graph when the same addresses come for the second time.
    void queue(const cuda::Stream& stream, const std::map<std::string, void*>& addresses, const cuda::Block& memory,
               bool graph = false);

  private:
    // Drops the graph, which belongs to the shapes and addresses that it was captured with.
    void forget();

    nvinfer1::ICudaEngine& engine_;
    const int profile_;
    std::unique_ptr<nvinfer1::IExecutionContext> context_;
    Shapes shapes_;
    std::size_t memory_bytes_ = 0;
    std::map<std::string, void*> addresses_;  // of the run before, and its memory
    void* scratch_ = nullptr;
    std::size_t scratch_bytes_ = 0;
    bool is_flushed_ = false;  // TensorRT applies changed shapes in the first execution, which cannot be captured
    bool can_capture_ = true;
    cuda::Graph graph_;
};

class PlanRuns {
  public:
    // content: a plan's bytes, trusted, which are loaded on this thread's GPU. code_allowed: let it run code of its
    // own, as a version compatible plan has it.
    PlanRuns(const std::string& content, bool code_allowed);

    // Whether an input or output is in float16; throws where it is neither that nor float32.
    bool is_half(const char* name) const;
    void require_int64(const char* name) const;
    // A side of an input or output, -1 where it is free.
    std::int64_t side(const char* name, int axis) const;
    // The profile's run, which this keeps.
    PlanRun& run(int profile, const cuda::Stream& stream);
    // A run for these shapes alone where they were used before, else null: a CUDA graph needs a context of its own. The
    // least recently used is dropped where there are too many.
    PlanRun* own(int profile, const Shapes& shapes, const cuda::Stream& stream);

  private:
    // Throws where an input or output is no row-major array in GPU memory, as which it is used.
    void require_plain() const;

    struct Own {
        std::unique_ptr<PlanRun> run;  // null after the first use
        std::uint64_t used = 0;
    };
    std::unique_ptr<nvinfer1::IRuntime> runtime_;  // outlives what it made
    std::unique_ptr<nvinfer1::ICudaEngine> engine_;
    std::map<int, PlanRun> runs_;
    std::map<std::pair<int, Shapes>, Own> own_;
    std::uint64_t uses_ = 0;
    bool has_room_ = true;  // for contexts of their own
};

}  // namespace gstk::impl
