// What the stand-in for TensorRT asks of the stand-in for CUDA.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>
#include <string>

// Queues work that begins when `delay_ms` have passed since.
void fake_queue(cudaStream_t stream, double delay_ms, std::function<void()> work);
// Whether a stream's work is captured, for a graph that may be launched later.
bool fake_captures(cudaStream_t stream);
// Whether somebody allocated that memory.
bool fake_holds(const void* address, std::size_t size);
// From now on every call fails so.
void fake_fail(cudaError_t code);
// A setting of the test's: FAKE_<name> of the environment.
std::string fake_setting(const char* name, const char* otherwise);
