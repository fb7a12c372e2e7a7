// Which backends are there, and opening a bundle with one of them; mirrors gstk.engines.select.
#include <algorithm>

#include "engine.hpp"
#include "error.hpp"
#ifdef GSTK_WITH_OPENVINO
#include "openvino_engine.hpp"
#endif

namespace gstk::impl {
namespace {

using Opener = std::shared_ptr<Engine> (*)(Bundle bundle, const EngineOptions& options);

struct Entry {
    const char* name;
    const char* build_option;
    Opener open;  // null where this library was built without it
};

// The preferred one first.
const Entry kEntries[] = {
#ifdef GSTK_WITH_OPENVINO
    {"openvino", "GSTK_OPENVINO", &open_openvino},
#else
    {"openvino", "GSTK_OPENVINO", nullptr},
#endif
};

}  // namespace

std::vector<std::string> backends() {
    std::vector<std::string> names;
    for (const auto& entry : kEntries)
        if (entry.open) names.emplace_back(entry.name);
    return names;
}

std::shared_ptr<Engine> open_engine(const std::filesystem::path& bundle, const EngineOptions& options) {
    const bool automatic = options.backend == "auto";
    const auto* entry = std::find_if(std::begin(kEntries), std::end(kEntries), [&](const Entry& candidate) {
        return automatic ? candidate.open != nullptr : candidate.name == options.backend;
    });
    if (entry == std::end(kEntries)) {
        if (automatic)
            throw error(GSTK_ERROR_BACKEND_MISSING,
                        "this gstk was built without any backend; build it with -DGSTK_OPENVINO=ON");
        throw error(GSTK_ERROR_ENGINE, "got backend '", printable(options.backend), "', expected auto or openvino");
    }
    if (!entry->open)
        throw error(GSTK_ERROR_BACKEND_MISSING, "this gstk was built without ", entry->name, "; build it with -D",
                    entry->build_option, "=ON");
    if (options.threads < 0)
        throw error(GSTK_ERROR_ENGINE, "got ", options.threads,
                    " threads, expected 1 or more, or 0 for the backend's choice");
    return entry->open(Bundle::open(bundle), options);
}

}  // namespace gstk::impl
