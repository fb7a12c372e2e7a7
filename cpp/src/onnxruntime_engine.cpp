#include "onnxruntime_engine.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <future>
#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#endif

// Otherwise a library older than the header ends the process before main, since it has not the interface asked for.
#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>

#include "error.hpp"
#include "onnxruntime_norm.hpp"

namespace gstk::impl {
namespace {

using Dims = std::vector<std::int64_t>;

Dims batched(std::int64_t objects, std::int64_t channels, const Shape& shape, std::int64_t divisor) {
    Dims result{objects, channels};
    for (const auto side : shape) result.push_back(side / divisor);
    return result;
}

std::size_t size_of(const Dims& shape) {
    std::size_t count = 1;
    for (const auto side : shape) count *= static_cast<std::size_t>(side);
    return count;
}

// What the other types of ONNX Runtime call, also where they hold nothing.
void use_library() {
    const OrtApiBase& base = *OrtGetApiBase();
    const OrtApi* api = base.GetApi(ORT_API_VERSION);
    if (!api)
        throw error(GSTK_ERROR_BACKEND_MISSING, "got ONNX Runtime ", base.GetVersionString(), ", expected 1.",
                    ORT_API_VERSION, " or newer, whose headers this gstk was built with; install it, or build anew");
    Ort::InitApi(api);
}

// Whether the fastest INT8 kernels add two products in 16 bits, which saturate: on x86 processors without VNNI. Weights
// are then unsigned, whose kernels are exact (gstk.engines.onnxruntime).
bool saturates_int8() {
#if defined(__x86_64__) || defined(__i386__)
    constexpr unsigned kAvxVnni = 1u << 4;  // of leaf 7.1; not every compiler has a name for it
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    const bool has_avx_vnni = __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax & kAvxVnni) != 0;
    return !__builtin_cpu_supports("avx512vnni") && !(has_avx_vnni && __builtin_cpu_supports("avx2"));
#else
    return false;
#endif
}

// What a graph reads: a value of ONNX Runtime's, and the memory behind it where that is not its own.
struct Input {
    const char* name;
    std::shared_ptr<Ort::Value> value;
    std::shared_ptr<const void> memory;
};

// One run with all that it reads and writes, for it may go on after its caller left.
struct Job {
    Job(Ort::Session& session, std::vector<Input> given, const char* name, std::shared_ptr<Ort::Value> result)
        : inputs(std::move(given)), output(std::move(result)), binding(session) {
        for (const auto& input : inputs) binding.BindInput(input.name, *input.value);
        binding.BindOutput(name, *output);
        // Within a run, the arena gives a layer's memory to the next; kept, it would hold the largest of every shape.
        options.AddConfigEntry("memory.enable_memory_arena_shrinkage", "cpu:0");
    }

    const std::vector<Input> inputs;
    const std::shared_ptr<Ort::Value> output;
    Ort::IoBinding binding;
    Ort::RunOptions options;
};

struct Graph {
    Ort::Session session{nullptr};
    std::int64_t channels = 0;  // of its output
    std::future<void> left;  // a run that nobody waits for any more
};

bool ends_in_time(const std::future<void>& run, const Deadline& deadline) {
    constexpr double kLongestS = 3600;  // longer ones are no duration of the standard library's
    const auto left = [&] { return std::chrono::duration<double>(std::clamp(deadline.left_s(), 0.0, kLongestS)); };
    while (run.wait_for(left()) != std::future_status::ready)
        if (deadline.left_s() <= 0) return false;
    return true;
}

class ONNXRuntimeEngine final : public Engine {
  public:
    ONNXRuntimeEngine(Bundle bundle, const EngineOptions& options)
        : Engine("onnxruntime", std::move(bundle), options.precision) {
        const std::array<std::filesystem::path, 2> files{bundle_.graph("encoder", options.precision),
                                                         bundle_.graph("prompt_decoder", options.precision)};
        failing_as("load the graphs of " + bundle_.path.string(), [&] { load(files, options.threads); });
    }

  protected:
    void run_encoder(const float* image, Embedding& embedding, const Wait& wait) override {
        const Dims shape = batched(1, 1, embedding.roi_shape, 1);
        auto given = is_half_ ? halved("image", image, shape) : input("image", image, shape, wait);
        const Dims shape_of = batched(1, graphs_[0].channels, embedding.roi_shape, 2);
        auto features = run(0, {std::move(given)}, "embedding", shape_of, wait);
        const auto info = features->GetTensorTypeAndShapeInfo();
        embedding.size_bytes = info.GetElementCount() * (is_half(info) ? sizeof(Ort::Float16_t) : sizeof(float));
        embedding.handle = std::move(features);
    }

    void run_decoder(const Embedding& embedding, const float* coords, const std::int64_t* labels, std::int64_t objects,
                     std::int64_t points, float* logits, const Wait& wait) override {
        const auto output = run(1,
                                {{"embedding", std::static_pointer_cast<Ort::Value>(embedding.handle), nullptr},
                                 input("point_coords", coords, {objects, points, 3}, wait),
                                 input("point_labels", labels, {objects, points}, wait)},
                                "logits", batched(objects, graphs_[1].channels, embedding.roi_shape, 1), wait);
        const auto info = output->GetTensorTypeAndShapeInfo();
        if (is_half(info)) {
            const auto* found = output->GetTensorData<Ort::Float16_t>();
            std::transform(found, found + info.GetElementCount(), logits, [](const auto& v) { return v.ToFloat(); });
        } else {
            std::copy_n(output->GetTensorData<float>(), info.GetElementCount(), logits);
        }
    }

  private:
    void load(const std::array<std::filesystem::path, 2>& files, int threads) {
        version_ = Ort::GetVersionString();
        device_ = "cpu";
        environment_ = Ort::Env(ORT_LOGGING_LEVEL_ERROR, "gstk");
        place_ = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault);
        Ort::SessionOptions options;
        options.SetGraphOptimizationLevel(GraphOptimizationLevel::ORT_ENABLE_ALL);
        options.SetLogSeverityLevel(ORT_LOGGING_LEVEL_ERROR);
        // Regions change shape from run to run, and memory patterns are planned for a shape that does not come again.
        options.DisableMemPattern();
        if (threads > 0) options.SetIntraOpNumThreads(threads);
        if (precision() == "int8" && saturates_int8()) options.AddConfigEntry("session.x64quantprecision", "1");
        // Both at once: mostly, each is made ready on one thread.
        const auto open = [&](std::size_t i) {
            const auto file = std::filesystem::canonical(files[i]);
            Ort::SessionOptions own = options.Clone();
            own.AddConfigEntry("session.model_external_initializers_file_folder_path",
                               file.parent_path().u8string().c_str());
            const std::string graph = exact_graph(file);
            return Ort::Session(environment_, graph.data(), graph.size(), own);
        };
        auto encoder = std::async(std::launch::async, open, 0);
        graphs_[1].session = open(1);
        graphs_[0].session = encoder.get();
        for (auto& graph : graphs_)
            graph.channels = graph.session.GetOutputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape()[1];
        is_half_ = is_half(graphs_[0].session.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo());
    }

    template <class Info>
    static bool is_half(const Info& info) {
        return info.GetElementType() == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
    }

    // A value on the caller's memory, or on a copy for a run that may go on after its caller left. ONNX Runtime takes
    // no const pointer, but only reads what is an input.
    template <class T>
    Input input(const char* name, const T* data, const Dims& shape, const Wait& wait) const {
        if (wait.deadline.is_set()) return owning(name, std::vector<T>(data, data + size_of(shape)), shape);
        return {name, on_memory(const_cast<T*>(data), shape), nullptr};
    }

    Input halved(const char* name, const float* data, const Dims& shape) const {
        return owning(name, std::vector<Ort::Float16_t>(data, data + size_of(shape)), shape);
    }

    template <class T>
    Input owning(const char* name, std::vector<T> values, const Dims& shape) const {
        auto memory = std::make_shared<std::vector<T>>(std::move(values));
        return {name, on_memory(memory->data(), shape), memory};
    }

    template <class T>
    std::shared_ptr<Ort::Value> on_memory(T* data, const Dims& shape) const {
        return std::make_shared<Ort::Value>(
            Ort::Value::CreateTensor<T>(place_, data, size_of(shape), shape.data(), shape.size()));
    }

    // A graph's output, in memory of its own: in the arena, an embedding would keep all that lies in one piece with it.
    std::shared_ptr<Ort::Value> run(std::size_t index, std::vector<Input> inputs, const char* name, const Dims& shape,
                                    const Wait& wait) {
        Graph& graph = graphs_[index];
        if (graph.left.valid()) settle(graph.left, wait.deadline);
        const auto type = graph.session.GetOutputTypeInfo(0).GetTensorTypeAndShapeInfo().GetElementType();
        auto output = std::make_shared<Ort::Value>(
            Ort::Value::CreateTensor(Ort::AllocatorWithDefaultOptions(), shape.data(), shape.size(), type));
        const auto job = std::make_shared<Job>(graph.session, std::move(inputs), name, std::move(output));
        const Cancellation::Hook hook(wait.cancellation, [&] { job->options.SetTerminate(); });
        const auto work = [job, session = &graph.session] { session->Run(job->options, job->binding); };
        if (wait.deadline.is_set()) {
            auto done = std::async(std::launch::async, work);
            if (!ends_in_time(done, wait.deadline)) {
                job->options.SetTerminate();  // it ends at its next layer, but is not waited for
                graph.left = std::move(done);
                throw TimeUp{};
            }
            done.get();
        } else {
            work();
        }
        return job->output;
    }

    // Waits for the end of a run that was left.
    static void settle(std::future<void>& run, const Deadline& deadline) {
        if (!ends_in_time(run, deadline)) throw TimeUp{};
        try {
            run.get();
        } catch (const Ort::Exception&) {  // it was ended
        }
    }

    Ort::Env environment_{nullptr};
    Ort::MemoryInfo place_{nullptr};
    std::array<Graph, 2> graphs_;  // encoder and decoder
    bool is_half_ = false;         // the encoder takes float16
};

}  // namespace

std::shared_ptr<Engine> open_onnxruntime(Bundle bundle, const EngineOptions& options) {
    use_library();
    return std::make_shared<ONNXRuntimeEngine>(std::move(bundle), options);
}

}  // namespace gstk::impl
