// Graphs as ONNX Runtime's processor is given them; mirrors gstk.engines.onnxruntime_norm, which says why.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace gstk::impl {

// Weights of this size and more are mapped from the file, bytes.
constexpr std::uint64_t kMappedBytes = 1 << 20;

// The graph of an ONNX file with instance norms that are exact on large regions, to be loaded from memory; large
// weights are named by their place in the file, which the session finds in the file's folder. Throws
// std::runtime_error.
std::string exact_graph(const std::filesystem::path& file);

}  // namespace gstk::impl
