// Compiled graphs on disk, so that a process starts without compiling them again. Mirrors gstk.engines.openvino_cache.
#pragma once

#include <functional>
#include <openvino/runtime/core.hpp>

#include "json_fields.hpp"

namespace gstk::impl {

// A compiled graph, from the folder where it is there.
//
// make: the graph; called where it has to be compiled. folder: where compiled graphs are kept, the user's own; empty
// keeps none. One that cannot be written to costs only time; GSTK_ERROR_ENGINE where others can. identity: what the
// graph depends on besides `config`, OpenVINO, the processor and the code of gstk.
ov::CompiledModel compile_cached(ov::Core& core, const std::function<std::shared_ptr<ov::Model>()>& make,
                                 const ov::AnyMap& config, const std::filesystem::path& folder, const Json& identity);

}  // namespace gstk::impl
