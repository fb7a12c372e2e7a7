// ONNX Runtime on the processor: nearly everywhere, in the least memory. Mirrors gstk.engines.onnxruntime.
#pragma once

#include "engine.hpp"

namespace gstk::impl {

std::shared_ptr<Engine> open_onnxruntime(Bundle bundle, const EngineOptions& options);

}  // namespace gstk::impl
