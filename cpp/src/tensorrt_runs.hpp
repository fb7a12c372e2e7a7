// A loaded TensorRT plan and its contexts, one for each profile. Mirrors gstk.engines.tensorrt_runs.
#pragma once

#include <NvInfer.h>

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

    // Gives the inputs their shapes; returns the memory in bytes that the run needs besides inputs and outputs.
    std::size_t shape(const Shapes& shapes);

    // Queues one execution with the addresses of all inputs and outputs.
    void queue(const cuda::Stream& stream, const std::map<std::string, void*>& addresses, const cuda::Block& memory);

  private:
    nvinfer1::ICudaEngine& engine_;
    const int profile_;
    std::unique_ptr<nvinfer1::IExecutionContext> context_;
    Shapes shapes_;
    std::size_t memory_bytes_ = 0;
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

  private:
    std::unique_ptr<nvinfer1::IRuntime> runtime_;  // outlives what it made
    std::unique_ptr<nvinfer1::ICudaEngine> engine_;
    std::map<int, PlanRun> runs_;
};

}  // namespace gstk::impl
