// TensorRT on NVIDIA GPUs, by plans that `gstk build` made. Mirrors gstk.engines.tensorrt.
#pragma once

#include "engine.hpp"

namespace gstk::impl {

std::shared_ptr<Engine> open_tensorrt(Bundle bundle, const EngineOptions& options);

}  // namespace gstk::impl
