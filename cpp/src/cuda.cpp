#include "cuda.hpp"

#include <stdexcept>

#include "error.hpp"

namespace gstk::impl::cuda {

void check(cudaError_t code) {
    if (code == cudaSuccess) return;
    cudaGetLastError();  // otherwise the next one to look, such as TensorRT, takes it for its own
    if (code == cudaErrorMemoryAllocation)
        throw error(GSTK_ERROR_MEMORY,
                    "CUDA has no memory left (cudaErrorMemoryAllocation); take smaller regions, or free memory");
    throw std::runtime_error(std::string(cudaGetErrorName(code)) + ": " + cudaGetErrorString(code));
}

std::vector<Device> devices() {
    int count = 0;
    const cudaError_t code = cudaGetDeviceCount(&count);
    if (code != cudaSuccess) cudaGetLastError();
    if (code != cudaSuccess || count == 0)
        throw error(GSTK_ERROR_DRIVER, "got no NVIDIA GPU (",
                    code == cudaSuccess ? "the driver shows this process none" : cudaGetErrorString(code),
                    "), expected one; install NVIDIA's driver, give this process a GPU, or take another backend");
    std::vector<Device> found;
    for (int index = 0; index < count; ++index) {
        cudaDeviceProp properties{};
        check(cudaGetDeviceProperties(&properties, index));
        found.push_back({index, properties.name, properties.major, properties.minor});
    }
    return found;
}

int driver_version() {
    int version = 0;
    check(cudaDriverGetVersion(&version));
    return version;
}

OnDevice::OnDevice(int index) : index_(index) {
    check(cudaGetDevice(&before_));
    if (before_ != index_) check(cudaSetDevice(index_));
}

OnDevice::~OnDevice() {
    if (before_ != index_) cudaSetDevice(before_);
}

Block::Block(int device, std::size_t size_bytes) : device_(device), size_bytes_(size_bytes) {
    const OnDevice on(device_);
    check(cudaMalloc(&address_, size_bytes_));
}

Block::~Block() {
    try {
        const OnDevice on(device_);
        cudaFree(address_);
    } catch (const std::exception&) {  // the GPU is lost, and its memory with it
    }
}

PinnedArea::~PinnedArea() {
    if (address_) cudaFreeHost(address_);
}

void* PinnedArea::reserve(std::size_t size_bytes) {
    if (size_bytes > size_bytes_) {
        if (address_) cudaFreeHost(address_);
        address_ = nullptr;
        size_bytes_ = 0;
        check(cudaMallocHost(&address_, size_bytes));
        size_bytes_ = size_bytes;
    }
    return address_;
}

Stream make_stream() {
    cudaStream_t stream = nullptr;
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    return Stream(stream);
}

Graph capture(const Stream& stream, const std::function<void()>& queue) {
    check(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal));
    cudaGraph_t captured = nullptr;
    try {
        queue();
    } catch (...) {
        cudaStreamEndCapture(stream.get(), &captured);  // makes the stream usable again
        if (captured) cudaGraphDestroy(captured);
        cudaGetLastError();
        throw;
    }
    check(cudaStreamEndCapture(stream.get(), &captured));
    cudaGraphExec_t found = nullptr;
    const cudaError_t code = cudaGraphInstantiateWithFlags(&found, captured, 0);
    cudaGraphDestroy(captured);
    check(code);
    return Graph(found);
}

Event make_event() {
    cudaEvent_t event = nullptr;
    check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    return Event(event);
}

}  // namespace gstk::impl::cuda
