// CUDA's runtime with owners: memory, streams and events of one GPU. Mirrors gstk.engines.cuda.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

namespace gstk::impl::cuda {

// Throws GSTK_ERROR_MEMORY where the GPU's memory is full, which loses nothing, and std::runtime_error with CUDA's
// words for all other codes but success.
void check(cudaError_t code);

struct Device {
    int index;
    std::string name;
    int major, minor;  // compute capability
};

// The GPUs of this process; throws GSTK_ERROR_DRIVER where there are none, or no driver.
std::vector<Device> devices();

// Newest CUDA of the driver, 1000 * major + 10 * minor.
int driver_version();

// Makes a GPU this thread's while it lives, and gives the thread back the one that it had.
class OnDevice {
  public:
    explicit OnDevice(int index);
    ~OnDevice();
    OnDevice(const OnDevice&) = delete;
    OnDevice& operator=(const OnDevice&) = delete;

  private:
    int before_ = 0;
    const int index_;
};

// Memory of a GPU. Giving it back waits until the GPU has no more use for it.
class Block {
  public:
    Block(int device, std::size_t size_bytes);
    ~Block();
    Block(const Block&) = delete;
    Block& operator=(const Block&) = delete;

    void* address() const { return address_; }
    std::size_t size_bytes() const { return size_bytes_; }

  private:
    const int device_;
    const std::size_t size_bytes_;
    void* address_ = nullptr;
};

// Host memory that the GPU copies from and to by itself; it grows as needed, and then its content is lost.
class PinnedArea {
  public:
    PinnedArea() = default;
    ~PinnedArea();
    PinnedArea(const PinnedArea&) = delete;
    PinnedArea& operator=(const PinnedArea&) = delete;

    // Its first bytes, valid until the next call. No copy of it may be under way.
    void* reserve(std::size_t size_bytes);

  private:
    void* address_ = nullptr;
    std::size_t size_bytes_ = 0;
};

struct StreamEnd {
    void operator()(cudaStream_t stream) const { cudaStreamDestroy(stream); }
};
struct EventEnd {
    void operator()(cudaEvent_t event) const { cudaEventDestroy(event); }
};
using Stream = std::unique_ptr<std::remove_pointer_t<cudaStream_t>, StreamEnd>;
using Event = std::unique_ptr<std::remove_pointer_t<cudaEvent_t>, EventEnd>;

struct GraphEnd {
    void operator()(cudaGraphExec_t graph) const { cudaGraphExecDestroy(graph); }
};
// Captured work, with the addresses and shapes that it was queued with.
using Graph = std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, GraphEnd>;

// Captures what `queue` queues on the stream, without running it. Other threads may call CUDA meanwhile, but must not
// queue on this stream.
Graph capture(const Stream& stream, const std::function<void()>& queue);

// A stream that does not wait for the default one, which would make TensorRT wait for the whole device.
Stream make_stream();
Event make_event();

}  // namespace gstk::impl::cuda
