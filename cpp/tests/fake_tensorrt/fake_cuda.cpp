// CUDA's runtime in the processor's memory. Work on a stream is only queued: it runs when somebody asks how far it is,
// so that a copy that was not waited for, or memory that was reused too early, gives wrong numbers. Each address is
// checked when the work runs; one that nobody allocated ends the context.
#include "fake_cuda.hpp"

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kAlignment = 256;

struct Work {
    Clock::time_point earliest;
    std::function<void()> run;
};

struct State {
    std::recursive_mutex mutex;
    cudaError_t sticky = cudaSuccess;
    std::map<char*, std::size_t> device, pinned;
    std::size_t used = 0;
    int current = 0;
};

State& state() {
    static auto& found = *new State;
    return found;
}

using Lock = std::lock_guard<std::recursive_mutex>;

int gpus() {
    return std::stoi(fake_setting("GPUS", "1"));
}

cudaError_t allocate(std::map<char*, std::size_t>& table, void** address, std::size_t size) {
    const std::size_t rounded = (size + kAlignment - 1) / kAlignment * kAlignment;
    auto* found = static_cast<char*>(std::aligned_alloc(kAlignment, rounded));
    std::memset(found, 0xab, rounded);  // memory is not empty when it is handed out
    table[found] = size;
    *address = found;
    return cudaSuccess;
}

cudaError_t give_back(std::map<char*, std::size_t>& table, void* address) {
    if (!address) return cudaSuccess;
    const auto found = table.find(static_cast<char*>(address));
    if (found == table.end()) return cudaErrorInvalidValue;
    table.erase(found);
    std::free(address);
    return cudaSuccess;
}

}  // namespace

struct CUgraph_st {
    std::vector<std::pair<double, std::function<void()>>> work;  // delays in ms
};

struct CUgraphExec_st {
    CUgraph_st graph;
};

struct CUstream_st {
    CUgraph_st* captured = nullptr;
    std::thread::id capturer;
    std::deque<Work> work;
    std::size_t queued = 0, done = 0;

    // Runs what may begin, up to one piece; whether all up to `until` is done.
    bool advance(std::size_t until) {
        if (done >= until) return true;
        if (work.front().earliest > Clock::now()) return false;
        work.front().run();
        work.pop_front();
        return ++done >= until;
    }
};

struct CUevent_st {
    CUstream_st* stream = nullptr;
    std::size_t place = 0;
};

std::string fake_setting(const char* name, const char* otherwise) {
    const char* found = std::getenv((std::string("FAKE_") + name).c_str());
    return found ? found : otherwise;
}

void fake_queue(cudaStream_t stream, double delay_ms, std::function<void()> work) {
    const Lock lock(state().mutex);
    if (stream->captured) {
        if (stream->capturer != std::this_thread::get_id()) fake_fail(cudaErrorStreamCaptureUnsupported);  // an intruder
        stream->captured->work.emplace_back(delay_ms, std::move(work));
        return;
    }
    const auto delay = std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double, std::milli>(delay_ms));
    stream->work.push_back({Clock::now() + delay, std::move(work)});
    ++stream->queued;
}

bool fake_captures(cudaStream_t stream) {
    const Lock lock(state().mutex);
    return stream->captured != nullptr;
}

bool fake_holds(const void* address, std::size_t size) {
    const Lock lock(state().mutex);
    const auto* wanted = static_cast<const char*>(address);
    for (const auto* table : {&state().device, &state().pinned})
        for (const auto& [start, length] : *table)
            if (start <= wanted && wanted + size <= start + length) return true;
    return false;
}

void fake_fail(cudaError_t code) {
    const Lock lock(state().mutex);
    state().sticky = code;
}

cudaError_t cudaGetDeviceCount(int* count) {
    *count = gpus();
    if (*count < 0) return cudaErrorInsufficientDriver;
    return *count ? cudaSuccess : cudaErrorNoDevice;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
    if (device < 0 || device >= gpus()) return cudaErrorInvalidDevice;
    std::strncpy(properties->name, fake_setting("GPU_NAME", "NVIDIA Fake 24GB").c_str(), sizeof properties->name - 1);
    properties->major = 8;
    properties->minor = 9;
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
    *version = std::stoi(fake_setting("CUDA", "13000"));
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
    *device = state().current;
    return state().sticky;
}

cudaError_t cudaSetDevice(int device) {
    if (device < 0 || device >= gpus()) return cudaErrorInvalidDevice;
    state().current = device;
    return state().sticky;
}

cudaError_t cudaGetLastError() {
    return state().sticky;
}

const char* cudaGetErrorName(cudaError_t code) {
    return code == cudaErrorIllegalAddress ? "cudaErrorIllegalAddress" : "cudaErrorInvalidValue";
}

const char* cudaGetErrorString(cudaError_t code) {
    switch (code) {
        case cudaErrorInsufficientDriver:
            return "CUDA driver version is insufficient for CUDA runtime version";
        case cudaErrorNoDevice:
            return "no CUDA-capable device is detected";
        case cudaErrorIllegalAddress:
            return "an illegal memory access was encountered";
        default:
            return "invalid argument";
    }
}

cudaError_t cudaMalloc(void** address, size_t size) {
    const Lock lock(state().mutex);
    if (state().sticky) return state().sticky;
    if (state().used + size > std::stoul(fake_setting("MEMORY_BYTES", "1073741824"))) return cudaErrorMemoryAllocation;
    state().used += size;
    return allocate(state().device, address, size);
}

cudaError_t cudaFree(void* address) {
    const Lock lock(state().mutex);
    const auto found = state().device.find(static_cast<char*>(address));
    if (found != state().device.end()) state().used -= found->second;
    return state().sticky ? state().sticky : give_back(state().device, address);
}

cudaError_t cudaMallocHost(void** address, size_t size) {
    const Lock lock(state().mutex);
    return state().sticky ? state().sticky : allocate(state().pinned, address, size);
}

cudaError_t cudaFreeHost(void* address) {
    const Lock lock(state().mutex);
    return give_back(state().pinned, address);
}

cudaError_t cudaMemcpyAsync(void* target, const void* source, size_t size, cudaMemcpyKind, cudaStream_t stream) {
    fake_queue(stream, 0, [=] {
        if (fake_holds(target, size) && fake_holds(source, size))
            std::memcpy(target, source, size);
        else
            fake_fail(cudaErrorIllegalAddress);
    });
    return state().sticky;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
    if (flags != cudaStreamNonBlocking) return cudaErrorInvalidValue;
    *stream = new CUstream_st;
    return state().sticky;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    for (;;) {
        {
            const Lock lock(state().mutex);
            if (stream->advance(stream->queued)) return state().sticky;
        }
        std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    delete stream;
    return state().sticky;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
    if (flags != cudaEventDisableTiming) return cudaErrorInvalidValue;
    *event = new CUevent_st;
    return state().sticky;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    const Lock lock(state().mutex);
    event->stream = stream;
    event->place = stream->queued;
    return state().sticky;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
    const Lock lock(state().mutex);
    const bool is_done = !event->stream || event->stream->advance(event->place);
    return state().sticky ? state().sticky : is_done ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete event;
    return state().sticky;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
    const Lock lock(state().mutex);
    if (stream->captured || mode != cudaStreamCaptureModeThreadLocal) return cudaErrorInvalidValue;
    if (!fake_setting("NO_CAPTURE", "").empty()) return cudaErrorStreamCaptureUnsupported;
    stream->captured = new CUgraph_st;
    stream->capturer = std::this_thread::get_id();
    return state().sticky;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
    const Lock lock(state().mutex);
    if (!stream->captured) return cudaErrorInvalidValue;
    *graph = stream->captured;
    stream->captured = nullptr;
    return state().sticky;
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
    *executable = new CUgraphExec_st{*graph};
    return state().sticky;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
    for (const auto& [delay_ms, work] : executable->graph.work) fake_queue(stream, delay_ms, work);
    return state().sticky;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
    delete executable;
    return state().sticky;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return state().sticky;
}
