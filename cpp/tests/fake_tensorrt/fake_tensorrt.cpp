// TensorRT on the processor: it loads the plans of tests/fake_tensorrt.py, which hold a graph, and computes with
// OpenVINO. It keeps TensorRT's rules: without a GPU a plan crashes the process; a plan belongs to a version and a GPU;
// shapes outside of a profile, missing or unaligned addresses and too little memory make a call return false, with the
// reason in the logger alone; the first run after a change of shape cannot be captured; the memory that a context was
// given is overwritten by each run.
#include <NvInfer.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <openvino/runtime/core.hpp>
#include <openvino/runtime/properties.hpp>

#include "fake_cuda.hpp"

namespace {

using Json = nlohmann::json;
using Shape = std::vector<std::int64_t>;

constexpr const char* kMagic = "fake plan ";
constexpr std::int64_t kScratchBytes = 64;  // for each voxel and object

std::int64_t product(const Shape& shape, std::size_t first) {
    std::int64_t found = 1;
    for (std::size_t i = first; i < shape.size(); ++i) found *= shape[i];
    return found;
}

std::int64_t scratch_bytes(const std::map<std::string, Shape>& shapes) {
    if (shapes.count("image")) return kScratchBytes * product(shapes.at("image"), 2);
    return kScratchBytes * shapes.at("point_coords")[0] * 8 * product(shapes.at("embedding"), 2);
}

std::vector<int> version() {
    std::vector<int> found;
    std::istringstream parts(fake_setting("VERSION", "10.13.0.35"));
    for (std::string part; std::getline(parts, part, '.');) found.push_back(std::stoi(part));
    return found;
}

ov::Core& core() {
    static auto& found = *new ov::Core;
    return found;
}

struct Engine final : nvinfer1::ICudaEngine {
    Json header;
    nvinfer1::ILogger* logger = nullptr;
    ov::CompiledModel compiled;

    const Json& end(const std::string& name) const {
        return *std::find_if(header["ends"].begin(), header["ends"].end(),
                             [&](const Json& entry) { return entry[0] == name; });
    }
    bool fail(const std::string& text) const {
        logger->log(nvinfer1::ILogger::Severity::kERROR, text.c_str());
        return false;
    }

    nvinfer1::DataType getTensorDataType(const char* name) const noexcept override {
        const auto kind = end(name)[1].get<std::string>();
        return kind == "HALF"    ? nvinfer1::DataType::kHALF
               : kind == "INT64" ? nvinfer1::DataType::kINT64
                                 : nvinfer1::DataType::kFLOAT;
    }
    nvinfer1::Dims getTensorShape(const char* name) const noexcept override {
        const auto sides = end(name)[2].get<Shape>();
        nvinfer1::Dims found{};
        found.nbDims = static_cast<std::int32_t>(sides.size());
        std::copy(sides.begin(), sides.end(), found.d);
        return found;
    }
    std::int32_t getNbIOTensors() const noexcept override { return static_cast<std::int32_t>(header["ends"].size()); }
    const char* getIOTensorName(std::int32_t index) const noexcept override {
        return header["ends"][static_cast<std::size_t>(index)][0].get_ref<const std::string&>().c_str();
    }
    std::int32_t getNbOptimizationProfiles() const noexcept override {
        return static_cast<std::int32_t>(header["profiles"].size());
    }
    nvinfer1::TensorLocation getTensorLocation(const char* name) const noexcept override {
        return fake_setting("ON_HOST", "") == name ? nvinfer1::TensorLocation::kHOST : nvinfer1::TensorLocation::kDEVICE;
    }
    nvinfer1::TensorFormat getTensorFormat(const char* name, std::int32_t) const noexcept override {
        return header["layouts"][name] == "LINEAR" ? nvinfer1::TensorFormat::kLINEAR : nvinfer1::TensorFormat::kHWC8;
    }
    std::int64_t getDeviceMemorySizeForProfileV2(std::int32_t profile) const noexcept override {
        std::map<std::string, Shape> shapes;
        for (const auto& item : header["profiles"][static_cast<std::size_t>(profile)].items())
            shapes[item.key()] = item.value()[2].get<Shape>();
        return scratch_bytes(shapes);
    }
    nvinfer1::IExecutionContext* createExecutionContext(
        nvinfer1::ExecutionContextAllocationStrategy strategy) noexcept override;
};

ov::element::Type type_of(const std::string& kind) {
    return kind == "HALF" ? ov::element::f16 : kind == "INT64" ? ov::element::i64 : ov::element::f32;
}

struct Context final : nvinfer1::IExecutionContext {
    explicit Context(Engine& made_by) : engine(made_by) {}

    Engine& engine;
    std::size_t profile = 0;
    std::map<std::string, Shape> shapes;
    std::map<std::string, void*> addresses;
    char* memory = nullptr;
    std::int64_t memory_bytes = 0;
    bool is_flushed = false;

    bool setOptimizationProfileAsync(std::int32_t index, cudaStream_t) noexcept override {
        profile = static_cast<std::size_t>(index);
        shapes.clear();
        return profile < engine.header["profiles"].size();
    }
    bool setInputShape(const char* name, const nvinfer1::Dims& dims) noexcept override {
        const auto& range = engine.header["profiles"][profile][name];
        const Shape low = range[0], high = range[2], shape(dims.d, dims.d + dims.nbDims);
        if (shape.size() != low.size()) return engine.fail(std::string(name) + " has another rank");
        for (std::size_t i = 0; i < shape.size(); ++i)
            if (shape[i] < low[i] || shape[i] > high[i]) return engine.fail(std::string(name) + " is out of range");
        shapes[name] = shape;
        is_flushed = false;
        return true;
    }
    std::int32_t inferShapes(std::int32_t, const char**) noexcept override {
        std::int32_t missing = 0;
        for (const auto& entry : engine.header["ends"])
            missing += entry[3] == 0 && !shapes.count(entry[0].get<std::string>());
        return missing;
    }
    // 0 is an answer that TensorRT gives too: the profile's largest need is right then.
    std::size_t updateDeviceMemorySizeForShapes() noexcept override {
        return fake_setting("SHY", "").empty() ? static_cast<std::size_t>(scratch_bytes(shapes)) : 0;
    }
    nvinfer1::Dims getTensorShape(const char* name) const noexcept override {
        const bool encodes = shapes.count("image");
        nvinfer1::Dims found = engine.getTensorShape(name);
        if (!encodes) found.d[0] = shapes.at("point_coords")[0];
        for (std::size_t i = 2; i < 5; ++i)
            found.d[i] = encodes ? shapes.at("image")[i] / 2 : 2 * shapes.at("embedding")[i];
        if (fake_setting("WIDE", "") == name) found.d[1] *= 2;
        return found;
    }
    bool setTensorAddress(const char* name, void* address) noexcept override {
        if (reinterpret_cast<std::uintptr_t>(address) % 256)
            return engine.fail(std::string("the address of ") + name + " is not aligned");
        addresses[name] = address;
        return true;
    }
    void setDeviceMemoryV2(void* given, std::int64_t size) noexcept override {
        memory = static_cast<char*>(given);
        memory_bytes = size;
    }
    bool enqueueV3(cudaStream_t stream) noexcept override {
        if (!fake_setting("REFUSE", "").empty()) {
            fake_queue(stream, 0, [] { fake_fail(cudaErrorIllegalAddress); });
            return engine.fail("Error Code 1: an odd reason");
        }
        if (addresses.size() != engine.header["ends"].size()) return engine.fail("an address is missing");
        if (memory_bytes < scratch_bytes(shapes)) return engine.fail("too little memory");
        if (fake_captures(stream) && !is_flushed) return engine.fail("changed shapes cannot be captured");
        is_flushed = true;
        static int runs = 0;
        const bool breaks = std::to_string(++runs) == fake_setting("BREAK_AT", "");
        note(fake_captures(stream));
        fake_queue(stream, std::stod(fake_setting("RUN_MS", "0")),
                   [this, breaks, inputs = shapes, bound = addresses, scratch = memory, size = memory_bytes] {
                       if (breaks || !fake_holds(scratch, static_cast<std::size_t>(size)))
                           return fake_fail(cudaErrorIllegalAddress);
                       compute(inputs, bound);
                       std::memset(scratch, std::rand() % 256, static_cast<std::size_t>(size));
                   });
        return true;
    }

  private:
    void compute(const std::map<std::string, Shape>& inputs, const std::map<std::string, void*>& bound) {
        auto request = engine.compiled.create_infer_request();
        for (const auto& [name, shape] : inputs) {
            const ov::Shape sides(shape.begin(), shape.end());
            const ov::Tensor view(type_of(engine.end(name)[1]), sides, bound.at(name));
            if (!fake_holds(bound.at(name), view.get_byte_size())) return fake_fail(cudaErrorIllegalAddress);
            request.set_tensor(name, view);
        }
        request.start_async();  // what `infer` keeps for the thread it is called in is never freed
        request.wait();
        const ov::Tensor found = request.get_output_tensor(0);
        const auto output = std::find_if(engine.header["ends"].begin(), engine.header["ends"].end(),
                                         [](const Json& entry) { return entry[3] == 1; });
        void* target = bound.at((*output)[0].get<std::string>());
        if (!fake_holds(target, found.get_byte_size())) return fake_fail(cudaErrorIllegalAddress);
        std::memcpy(target, found.data(), found.get_byte_size());
    }

    // A line for each run that is queued: the profile, the shapes of its inputs, and whether it was captured.
    void note(bool is_captured) const {
        const std::string file = fake_setting("LOG", "");
        if (!file.empty()) std::ofstream(file, std::ios::app) << Json{{"profile", profile}, {"shapes", shapes}, {"captured", is_captured}} << '\n';
    }
};

nvinfer1::IExecutionContext* Engine::createExecutionContext(
    nvinfer1::ExecutionContextAllocationStrategy strategy) noexcept {
    static int made = 0;
    if (std::to_string(++made) == fake_setting("NO_CONTEXT", "")) {
        fail("Error Code 2: OutOfMemory (no further information)");
        return nullptr;
    }
    return strategy == nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED ? new Context(*this) : nullptr;
}

struct Runtime final : nvinfer1::IRuntime {
    explicit Runtime(nvinfer1::ILogger& given) : logger(given) {}

    nvinfer1::ILogger& logger;
    bool is_code_allowed = false;

    void setEngineHostCodeAllowed(bool allowed) noexcept override { is_code_allowed = allowed; }
    nvinfer1::ICudaEngine* deserializeCudaEngine(const void* plan, std::size_t size) noexcept override {
        int gpus = 0;
        if (cudaGetDeviceCount(&gpus) != cudaSuccess) std::abort();
        const std::string content(static_cast<const char*>(plan), size);
        const std::size_t line = content.find('\n');
        auto engine = std::make_unique<Engine>();
        engine->logger = &logger;
        if (content.rfind(kMagic, 0) != 0) return refuse(*engine, "Serialization assertion magicTag failed");
        engine->header = Json::parse(content.substr(std::strlen(kMagic), line - std::strlen(kMagic)));
        const auto& flags = engine->header["flags"];
        const bool is_compatible = std::find(flags.begin(), flags.end(), "VERSION_COMPATIBLE") != flags.end();
        if (is_compatible && !is_code_allowed) return refuse(*engine, "the plan has code of its own");
        if (!is_compatible && engine->header["version"] != fake_setting("VERSION", "10.13.0.35"))
            return refuse(*engine, "the plan is of another version");
        const auto model = core().read_model(content.substr(line + 1), ov::Tensor());
        engine->compiled = core().compile_model(model, "CPU", ov::hint::inference_precision(ov::element::f32));
        return engine.release();
    }

  private:
    static nvinfer1::ICudaEngine* refuse(const Engine& engine, const char* text) {
        engine.fail(text);
        return nullptr;
    }
};

}  // namespace

namespace nvinfer1 {

IRuntime* createInferRuntime(ILogger& logger) noexcept {
    return new Runtime(logger);
}

}  // namespace nvinfer1

std::int32_t getInferLibMajorVersion() noexcept {
    return version()[0];
}
std::int32_t getInferLibMinorVersion() noexcept {
    return version()[1];
}
std::int32_t getInferLibPatchVersion() noexcept {
    return version()[2];
}
std::int32_t getInferLibBuildVersion() noexcept {
    return version()[3];
}
