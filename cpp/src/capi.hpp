// What every function of the C ABI needs: handles, checked pointers, and errors that become codes.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <new>

#include "gstk/gstk.h"
#include "handles.hpp"
#include "session.hpp"

namespace gstk::impl {

Handles<gstk_engine, Engine>& engines();
Handles<gstk_embedding, const Embedding>& embeddings();
Handles<gstk_volume, const Volume>& volumes();
Handles<gstk_session, Session>& sessions();

// Keeps the message for gstk_last_error, and returns the code.
gstk_status failed(gstk_status code, const char* message) noexcept;

template <class Run>
gstk_status guarded(Run&& run) noexcept {
    try {
        run();
        return GSTK_OK;
    } catch (const Error& reason) {
        return failed(reason.code(), reason.what());
    } catch (const std::bad_alloc&) {
        return failed(GSTK_ERROR_MEMORY,
                      "got no more memory, expected enough for the volume and its window; free some");
    } catch (const std::exception& reason) {
        return failed(GSTK_ERROR_INTERNAL, reason.what());
    } catch (...) {
        return failed(GSTK_ERROR_INTERNAL, "got an unknown exception, expected none; please report it");
    }
}

template <class T>
T& required(T* pointer, const char* name) {
    if (!pointer) throw error(GSTK_ERROR_ARGUMENT, "got null for ", name, ", expected a pointer");
    return *pointer;
}

// The caller's structure as far as it goes, defaults beyond.
template <class T>
T sized(const T* given, const T& defaults) {
    T result = defaults;
    if (!given) return result;
    if (given->struct_size < sizeof(std::uint32_t) || given->struct_size > 4096)
        throw error(GSTK_ERROR_ARGUMENT, "got struct_size ", given->struct_size,
                    ", expected the structure's size; begin with its _INIT macro");
    std::memcpy(&result, given, std::min<std::size_t>(given->struct_size, sizeof(T)));
    result.struct_size = static_cast<std::uint32_t>(sizeof(T));
    return result;
}

// Fills as much of the caller's structure as it has.
template <class T>
void fill(T* target, T value) {
    const auto size = required(target, "info").struct_size;
    if (size < sizeof(std::uint32_t) || size > 4096)
        throw error(GSTK_ERROR_ARGUMENT, "got struct_size ", size,
                    ", expected the structure's size; begin with its _INIT macro");
    value.struct_size = size;
    std::memcpy(target, &value, std::min<std::size_t>(size, sizeof(T)));
}

template <class Number>
std::array<Number, 3> triple(const Number* values, const char* name) {
    required(values, name);
    return {values[0], values[1], values[2]};
}

}  // namespace gstk::impl
