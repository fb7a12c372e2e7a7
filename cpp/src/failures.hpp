// What a backend's error means: each has words of its own for a full memory, a lost device or a GPU that it cannot use.
// Mirrors gstk.engines.failures.
#pragma once

#include <string>

#include "error.hpp"

namespace gstk::impl {

// The error to throw for what a backend threw: GSTK_ERROR_MEMORY, _DEVICE, _DRIVER, _ARCHITECTURE, or a plain
// GSTK_ERROR_ENGINE.
//
// After a CUDA error the context is corrupt and later calls fail or lie, in every engine of the process: from then on
// `refuse_lost_device` throws.
Error failure(const std::string& backend, const std::string& task, const std::string& reason);

// Whether this process had a CUDA error.
bool is_device_lost();
// Throws GSTK_ERROR_DEVICE where it had.
void refuse_lost_device();

}  // namespace gstk::impl
