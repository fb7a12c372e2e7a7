#include "openvino_engine.hpp"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <future>
#include <new>
#include <openvino/runtime/core.hpp>
#include <openvino/runtime/properties.hpp>

#include "error.hpp"
#include "openvino_cache.hpp"
#include "openvino_rewrites.hpp"
#include "point_padding.hpp"

namespace gstk::impl {
namespace {

constexpr double kMaps = 12;  // maps of the region at full resolution that both graphs keep from their last run, about
constexpr double kKeepShare = 0.25;  // share of the machine's memory that they may keep so

double memory_bytes() {
    return static_cast<double>(sysconf(_SC_PAGESIZE)) * static_cast<double>(sysconf(_SC_PHYS_PAGES));
}

ov::Shape of_region(const Shape& shape) {
    ov::Shape result{1, 1};
    for (const auto side : shape) result.push_back(static_cast<std::size_t>(side));
    return result;
}

// Channels-last, see openvino_layout.
ov::Shape of_embedding(const Shape& shape, std::size_t channels) {
    ov::Shape result{1};
    for (const auto side : shape) result.push_back(static_cast<std::size_t>(side / 2));
    result.push_back(channels);
    return result;
}

// A tensor on the caller's memory, or a copy for a run that may go on after its caller left. OpenVINO takes no const
// pointer, but only reads what is an input.
template <class T>
ov::Tensor input(const T* data, const ov::Shape& shape, const Wait& wait) {
    const ov::Tensor view(ov::element::from<T>(), shape, const_cast<T*>(data));
    if (!wait.deadline.is_set()) return view;
    ov::Tensor copy(view.get_element_type(), shape);
    view.copy_to(copy);
    return copy;
}

using Inputs = std::map<std::string, ov::Tensor>;
using Sizes = std::vector<std::size_t>;

// What varies in the shapes of a graph's inputs: the sides (z, y, x), and the decoder's count of points.
Sizes sizes_of(const Inputs& inputs) {
    Sizes found;
    for (const auto& [name, tensor] : inputs) {
        const ov::Shape& shape = tensor.get_shape();
        if (name == "point_coords") found.push_back(shape[1]);
        if (name == "image") found.insert(found.end(), shape.begin() + 2, shape.end());
        if (name == "embedding") found.insert(found.end(), shape.begin() + 1, shape.end() - 1);
    }
    return found;
}

// OpenVINO's core, one for the process and as long as it. A core gives the thread that makes it a stack for signal
// handlers, and at its end puts back the one that it found. Where cores do not end in the reverse order of their
// beginning, that one was freed: the next signal that a handler takes there then ends the process (the CPU plugin of
// OpenVINO 2026.4).
//
// Snippets are off, and kernels of few shapes are kept; why, gstk.engines.openvino says.
ov::Core& shared_core() {
    static auto& core = []() -> ov::Core& {
        auto& made = *new ov::Core;
        for (const auto& [name, value] : ov::AnyMap{{"SNIPPETS_MODE", "DISABLE"}, {"CPU_RUNTIME_CACHE_CAPACITY", "128"}})
            try {
                made.set_property("CPU", ov::AnyMap{{name, value}});
            } catch (const ov::Exception&) {  // the properties are the plugin's own, and a version may come without
            }
        return made;
    }();
    return core;
}

// Whether INT8 convolutions saturate on this processor; asked once, when an INT8 graph is first compiled.
bool saturates_int8() {
    static const bool found = products_saturate(shared_core());
    return found;
}

// A decode of so many points leaves memory that is freed at the next one of so many times fewer.
constexpr std::int64_t kManyPoints = 128, kManyPointsOver = 4;

struct Graph {
    ov::CompiledModel compiled;
    ov::InferRequest request;
    std::vector<Sizes> shapes;  // of its latest run, and of those after it that did not come to their end
    bool left = false;          // a run goes on that nobody waits for
};

class OpenVINOEngine final : public Engine {
  public:
    OpenVINOEngine(Bundle bundle, const EngineOptions& options)
        : Engine("openvino", std::move(bundle), options.precision) {
        const auto encoder = bundle_.graph("encoder", options.precision);
        const auto decoder = bundle_.graph("prompt_decoder", options.precision);
        failing_as("load the graphs of " + bundle_.path.string(), [&] { load({encoder, decoder}, options); });
    }

  protected:
    void run_encoder(const float* image, Embedding& embedding, const Wait& wait) override {
        const Shape& shape = embedding.roi_shape;
        free_idle(graphs_[1], decoding_, count_of(shape));
        const ov::Tensor given = input(image, of_region(shape), wait);
        auto features = std::make_shared<ov::Tensor>(embedding_type_, of_embedding(shape, width_));
        infer(0, {{"image", as_type(given, image_type_)}}, wait).copy_to(*features);
        embedding.size_bytes = features->get_byte_size();
        embedding.handle = std::move(features);
    }

    void run_decoder(const Embedding& embedding, const float* coords, const std::int64_t* labels, std::int64_t objects,
                     std::int64_t points, float* logits, const Wait& wait) override {
        const auto& features = *static_cast<const ov::Tensor*>(embedding.handle.get());
        const Shape& shape = embedding.roi_shape;
        PaddedPoints padded;
        if (ignores_padding_) {
            padded = pad_points(coords, labels, objects, points);
            coords = padded.coords.data();
            labels = padded.labels.data();
            points = padded.points;
        }
        const auto count = static_cast<std::size_t>(points);
        free_idle(graphs_[0], encoding_, count_of(shape));
        free_points(points);
        for (std::int64_t b = 0; b < objects; ++b) {
            const auto output = infer(1,
                                      {{"embedding", features},
                                       {"point_coords", input(coords + 3 * b * points, {1, count, 3}, wait)},
                                       {"point_labels", input(labels + b * points, {1, count}, wait)}},
                                      wait);
            ov::Tensor target(ov::element::f32, of_region(shape), logits + b * count_of(shape));
            as_type(output, ov::element::f32).copy_to(target);
        }
    }

  private:
    void load(const std::array<std::filesystem::path, 2>& files, const EngineOptions& options) {
        const std::string build = ov::get_openvino_version().buildNumber;
        version_ = build.substr(0, build.find('-'));
        device_ = "cpu: " + shared_core().get_property("CPU", ov::device::full_name);
        // Both at once: compiling is the longest part of opening, and mostly runs on one thread.
        const auto compile = [&](std::size_t index) {
            Json identity{{"bundle", bundle_sha256()}, {"precision", options.precision}, {"graph", index}};
            if (options.precision == "int8") identity["saturates"] = saturates_int8();
            const auto make = [&] { return read(files[index], index == 1, manifest()); };
            return compile_cached(shared_core(), make, config_of(options, index == 0), options.cache, identity);
        };
        auto compiled = std::async(std::launch::async, compile, 0);
        graphs_[1].compiled = compile(1);
        graphs_[0].compiled = compiled.get();
        for (auto& graph : graphs_) graph.request = graph.compiled.create_infer_request();
        width_ = static_cast<std::size_t>(graphs_[0].compiled.output(0).get_partial_shape()[4].get_length());
        ignores_padding_ = manifest().ignored_points || ignores_padding(graphs_[1].compiled);
        image_type_ = graphs_[0].compiled.input(0).get_element_type();
        embedding_type_ = graphs_[0].compiled.output(0).get_element_type();
    }

    // One for each thread that compiles: OpenVINO writes into the values when it reads them as text.
    //
    // Without the precision hint OpenVINO computes in bfloat16 where the CPU has it, without saying so. What an INT8
    // encoder does not compute in INT8, its norms above all, waits for memory: there that is half as much, and the error
    // is small beside that of INT8.
    static ov::AnyMap config_of(const EngineOptions& options, bool is_encoder) {
        const auto capabilities = shared_core().get_property("CPU", ov::device::capabilities);
        const bool has_bf16 = std::count(capabilities.begin(), capabilities.end(), ov::device::capability::BF16) > 0;
        const bool half = is_encoder && options.precision == "int8" && has_bf16 && !saturates_int8();
        ov::AnyMap config{ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY),
                          ov::hint::inference_precision(half ? ov::element::bf16 : ov::element::f32)};
        if (options.threads > 0) config.insert(ov::inference_num_threads(options.threads));
        return config;
    }

    static std::shared_ptr<ov::Model> read(const std::filesystem::path& file, bool is_decoder,
                                           const Manifest& manifest) {
        const auto model = shared_core().read_model(file.string());
        if (is_decoder) {
            take_channels_last(model);
            model->reshape(
                std::map<std::string, ov::PartialShape>{{"point_coords", {1, -1, 3}}, {"point_labels", {1, -1}}});
            convolve_last_product(model);
            add_to_row(model);
            if (!manifest.ignored_points) ignore_padding(model);
            upsample_tokens(model);
            softmax_over_rows(model);
        } else {
            give_channels_last(model, is_quantised(*model));
        }
        // Among INT8 convolutions the plugin pulls scales through the averages of split norms, and what comes out is 0
        // everywhere. Rounding in whole norms is then the smaller error by far.
        if (is_quantised(*model)) {
            if (saturates_int8()) narrow_weights(model);
            widen_unsigned(model);
            fuse_residual_sums(model);
        } else {
            split_instance_norms(model, manifest.roi.multiple, is_decoder);
        }
        return model;
    }

    // The request's own output, which its next run writes again.
    //
    // A run that did not come to its end leaves the request, layer by layer, with the shapes of two runs, and it fails
    // or worse in the next: one of other shapes throughout then comes between.
    ov::Tensor infer(std::size_t index, const Inputs& inputs, const Wait& wait) {
        Graph& graph = graphs_[index];
        if (graph.left) settle(graph, wait);
        if (graph.shapes.size() > 1) run(graph, other_inputs(index, graph.shapes), wait);
        mark(graph.request.get_output_tensor(0), true);
        run(graph, inputs, wait);
        const ov::Tensor output = graph.request.get_output_tensor(0);
        // OpenVINO gave back what an earlier run wrote, as it does where memory is short.
        if (mark(output, false)) throw std::bad_alloc();
        return output;
    }

    // Writes into an output what no run leaves there, a NaN with digits of its own, first and last; or says whether it
    // is there.
    static bool mark(ov::Tensor output, bool write) {
        const std::size_t width = output.get_element_type().size(), count = output.get_size();
        if (count == 0) return false;
        const std::uint32_t unwritten = width == 4 ? 0x7FC0BEEFu : 0x7E5Au;
        auto* bytes = static_cast<std::uint8_t*>(output.data());
        bool found = false;
        for (std::uint8_t* place : {bytes, bytes + width * (count - 1)}) {
            if (write) std::memcpy(place, &unwritten, width);
            found = found || std::memcmp(place, &unwritten, width) == 0;
        }
        return found;
    }

    static void run(Graph& graph, const Inputs& inputs, const Wait& wait) {
        for (const auto& [name, tensor] : inputs) graph.request.set_tensor(name, tensor);
        graph.shapes.push_back(sizes_of(inputs));
        graph.request.start_async();
        await(graph, wait);
        graph.shapes.erase(graph.shapes.begin(), graph.shapes.end() - 1);
    }

    // Waits for the run under way. What is not done in time is ended at its next layer, but not waited for.
    static void await(Graph& graph, const Wait& wait) {
        const Cancellation::Hook hook(wait.cancellation, [&] { graph.request.cancel(); });
        if (!wait.deadline.is_set()) return graph.request.wait();
        constexpr double kLongestS = 3600;
        const auto left = [&] {
            const double seconds = std::clamp(wait.deadline.left_s(), 0.0, kLongestS);
            return std::chrono::milliseconds(static_cast<std::int64_t>(std::ceil(1000 * seconds)));
        };
        while (!graph.request.wait_for(left()))
            if (wait.deadline.left_s() <= 0) {
                graph.left = true;
                graph.request.cancel();
                throw TimeUp{};
            }
    }

    // Waits for the end of a run that was left.
    static void settle(Graph& graph, const Wait& wait) {
        try {
            await(graph, wait);
        } catch (const ov::Exception&) {  // it was ended
        }
        graph.left = false;
    }

    // Inputs of a graph that give no tensor in it the shape that those of `shapes` gave it.
    //
    // Layers halve the sides until the bundle's multiple is 1, and norms count blocks of what there is then, often one
    // where the sides are short: one side is longer than all by such a block, the others are the least. It is not the
    // last, along which the decoder's norm adds up squares.
    Inputs other_inputs(std::size_t index, const std::vector<Sizes>& shapes) const {
        const std::size_t halves = index == 0 ? 1 : 2;  // an embedding's sides are half the region's
        const auto multiple = static_cast<std::size_t>(manifest().roi.multiple), coarsest = kNormBlock * multiple;
        const std::size_t least = static_cast<std::size_t>(manifest().roi.minimum) / halves;
        std::size_t longest = 0, points = 1;
        for (const auto& sizes : shapes)
            longest = std::max(longest, halves * *std::max_element(sizes.begin(), sizes.begin() + 3));
        longest = (longest + coarsest - 1) / coarsest * coarsest + multiple;
        const auto any = [&](const auto& holds) { return std::any_of(shapes.begin(), shapes.end(), holds); };
        while (any([&](const Sizes& s) { return s[0] * s[1] * s[2] == least * least * longest / halves; }))
            longest += multiple;
        if (index == 0) return {{"image", zeros<float>({1, 1, longest, least, least}, image_type_)}};
        while (any([&](const Sizes& s) { return s[3] == points; })) ++points;
        return {{"embedding", zeros<float>({1, longest / 2, least, least, width_}, embedding_type_)},
                {"point_coords", zeros<float>({1, points, 3}, ov::element::f32)},
                {"point_labels", zeros<std::int64_t>({1, points}, ov::element::i64)}};
    }

    // A tensor of zeros.
    template <class T>
    static ov::Tensor zeros(const ov::Shape& shape, const ov::element::Type& type) {
        ov::Tensor found(ov::element::from<T>(), shape);
        std::fill_n(found.data<T>(), found.get_size(), T{0});
        return as_type(found, type);
    }

    // The tensor itself, or a copy in another floating-point type.
    static ov::Tensor as_type(const ov::Tensor& tensor, const ov::element::Type& type) {
        if (tensor.get_element_type() == type) return tensor;
        ov::Tensor converted(type, tensor.get_shape());
        const std::size_t size = tensor.get_size();
        if (type == ov::element::f16)
            std::copy_n(tensor.data<const float>(), size, converted.data<ov::float16>());
        else
            std::copy_n(tensor.data<const ov::float16>(), size, converted.data<float>());
        return converted;
    }

    // Frees the intermediate tensors that the other graph kept from its last run, where they are large. Allocating them
    // anew costs half as much as a decode, so up to a share of the machine's memory they stay.
    void free_idle(Graph& graph, std::timed_mutex& busy, std::int64_t voxels) {
        if (kMaps * 4 * static_cast<double>(width_) * static_cast<double>(voxels) <= kKeepShare * memory_bytes())
            return;
        const std::unique_lock<std::timed_mutex> lock(busy, std::try_to_lock);
        // A run that was ended, or goes on, has memory of two shapes.
        if (lock && !graph.left && graph.shapes.size() < 2) graph.compiled.release_memory();
    }

    // Frees the decoder's tensors where an earlier decode had many more points: attention has a number for each point,
    // image token and head, which the plugin keeps.
    void free_points(std::int64_t points) {
        Graph& graph = graphs_[1];
        const bool many = most_points_ >= kManyPoints && kManyPointsOver * points <= most_points_;
        if (many && !graph.left && graph.shapes.size() < 2) {
            graph.compiled.release_memory();
            most_points_ = 0;
        }
        most_points_ = std::max(most_points_, points);
    }

    std::array<Graph, 2> graphs_;  // encoder and decoder
    std::int64_t most_points_ = 0;  // of a decode since the decoder's memory was freed
    std::size_t width_ = 0;
    bool ignores_padding_ = false;  // the decoder takes ignored points
    ov::element::Type image_type_, embedding_type_;
};

}  // namespace

std::shared_ptr<Engine> open_openvino(Bundle bundle, const EngineOptions& options) {
    return std::make_shared<OpenVINOEngine>(std::move(bundle), options);
}

}  // namespace gstk::impl
