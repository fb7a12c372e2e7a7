// OpenVINO on the CPU: the fastest way there without a GPU. Mirrors gstk.engines.openvino.
#pragma once

#include "engine.hpp"

namespace gstk::impl {

std::shared_ptr<Engine> open_openvino(Bundle bundle, const EngineOptions& options);

}  // namespace gstk::impl
