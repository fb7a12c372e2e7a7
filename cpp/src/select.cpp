// Which backends are there, and opening a bundle with one of them; mirrors gstk.engines.select.
#include <algorithm>

#include "engine.hpp"
#include "error.hpp"
#ifdef GSTK_WITH_TENSORRT
#include "tensorrt_engine.hpp"
#endif
#ifdef GSTK_WITH_OPENVINO
#include "openvino_engine.hpp"
#endif
#ifdef GSTK_WITH_ONNXRUNTIME
#include "onnxruntime_engine.hpp"
#endif

namespace gstk::impl {
namespace {

using Opener = std::shared_ptr<Engine> (*)(Bundle bundle, const EngineOptions& options);

struct Entry {
    const char* name;
    const char* build_option;
    bool is_on_gpu;
    Opener open;  // null where this library was built without it
};

// The preferred one first.
const Entry kEntries[] = {
#ifdef GSTK_WITH_TENSORRT
    {"tensorrt", "GSTK_TENSORRT", true, &open_tensorrt},
#else
    {"tensorrt", "GSTK_TENSORRT", true, nullptr},
#endif
#ifdef GSTK_WITH_OPENVINO
    {"openvino", "GSTK_OPENVINO", false, &open_openvino},
#else
    {"openvino", "GSTK_OPENVINO", false, nullptr},
#endif
#ifdef GSTK_WITH_ONNXRUNTIME
    {"onnxruntime", "GSTK_ONNXRUNTIME", false, &open_onnxruntime},
#else
    {"onnxruntime", "GSTK_ONNXRUNTIME", false, nullptr},
#endif
};

// The options with a precision: `auto` is fp16 on a GPU where the bundle has it, and fp32 otherwise.
EngineOptions with_precision(const Entry& entry, const Bundle& bundle, EngineOptions options) {
    if (options.precision != "auto") return options;
    const auto& graphs = bundle.manifest.graphs;
    const bool has_fp16 =
        std::all_of(graphs.begin(), graphs.end(), [](const auto& kind) { return kind.second.count("fp16") > 0; });
    options.precision = entry.is_on_gpu && has_fp16 ? "fp16" : "fp32";
    return options;
}

bool is_gpu(const std::string& device) {
    return device.rfind("cuda", 0) == 0;
}

void check_device(const std::string& device) {
    const bool numbered = device.rfind("cuda:", 0) == 0 && device.size() > 5 && device.size() < 9 &&
                          device.find_first_not_of("0123456789", 5) == std::string::npos;
    if (device != "auto" && device != "cpu" && device != "cuda" && !numbered)
        throw error(GSTK_ERROR_ENGINE, "got device '", printable(device), "', expected auto, cpu, cuda or cuda:N");
}

// Throws where a backend that was asked for cannot be opened like this.
void check_fit(const Entry& entry, const EngineOptions& options) {
    if (!entry.open)
        throw error(GSTK_ERROR_BACKEND_MISSING, "this gstk was built without ", entry.name, "; build it with -D",
                    entry.build_option, "=ON");
    if (options.device != "auto" && is_gpu(options.device) != entry.is_on_gpu)
        throw error(GSTK_ERROR_BACKEND_MISSING, "got device '", options.device, "' for ", entry.name,
                    ", which here runs on ", entry.is_on_gpu ? "cuda" : "the cpu", "; take that, or another backend");
    if (entry.is_on_gpu && options.threads)
        throw error(GSTK_ERROR_ENGINE, "got ", options.threads, " threads for ", entry.name,
                    ", expected 0; threads are for the cpu");
    if (!options.plans.empty() && !entry.is_on_gpu)
        throw error(GSTK_ERROR_ENGINE, "got plans for ", entry.name, ", expected none; they are tensorrt's");
    if (!options.cache.empty() && std::string(entry.name) != "openvino")
        throw error(GSTK_ERROR_ENGINE, "got a cache for ", entry.name, ", expected none; it is openvino's");
}

// Whether `auto` may go on to the next backend after this error: there the bundle may run all the same.
bool is_about_this_machine(gstk_status code) {
    return code == GSTK_ERROR_BACKEND_MISSING || code == GSTK_ERROR_DRIVER || code == GSTK_ERROR_ARCHITECTURE ||
           code == GSTK_ERROR_PLAN;
}

std::shared_ptr<Engine> open_any(const Bundle& bundle, const EngineOptions& options) {
    if (!options.plans.empty() || !options.cache.empty())
        throw error(GSTK_ERROR_ENGINE, "got ", options.plans.empty() ? "a cache" : "plans",
                    " with backend 'auto', expected ", options.plans.empty() ? "openvino" : "tensorrt", "; say so");
    std::string left_out;
    for (const auto& entry : kEntries) {
        const bool fits = options.device == "auto" ? !(entry.is_on_gpu && options.threads)
                                                   : is_gpu(options.device) == entry.is_on_gpu;
        if (!entry.open || !fits) continue;
        try {
            return entry.open(bundle, with_precision(entry, bundle, options));
        } catch (const Error& reason) {
            if (!is_about_this_machine(reason.code())) throw;
            left_out += std::string(left_out.empty() ? "" : "; ") + reason.what();
        }
    }
    if (!left_out.empty()) throw Error(GSTK_ERROR_BACKEND_MISSING, left_out);
    throw error(GSTK_ERROR_BACKEND_MISSING, "this gstk was built without a backend for device '", options.device,
                "'; build it with -DGSTK_OPENVINO=ON, or another");
}

}  // namespace

std::vector<std::string> backends() {
    std::vector<std::string> names;
    for (const auto& entry : kEntries)
        if (entry.open) names.emplace_back(entry.name);
    return names;
}

std::shared_ptr<Engine> open_engine(const std::filesystem::path& bundle, const EngineOptions& options) {
    check_device(options.device);
    if (options.threads < 0)
        throw error(GSTK_ERROR_ENGINE, "got ", options.threads,
                    " threads, expected 1 or more, or 0 for the backend's choice");
    const auto ready = [&](std::shared_ptr<Engine> engine) {
        engine->keep_to(options.threads);
        return engine;
    };
    if (options.backend == "auto") return ready(open_any(Bundle::open(bundle), options));
    const auto* entry = std::find_if(std::begin(kEntries), std::end(kEntries),
                                     [&](const Entry& candidate) { return candidate.name == options.backend; });
    if (entry == std::end(kEntries))
        throw error(GSTK_ERROR_ENGINE, "got backend '", printable(options.backend),
                    "', expected auto, tensorrt, openvino or onnxruntime");
    check_fit(*entry, options);
    const Bundle opened = Bundle::open(bundle);
    return ready(entry->open(opened, with_precision(*entry, opened, options)));
}

}  // namespace gstk::impl
