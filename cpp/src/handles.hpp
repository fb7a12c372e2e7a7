// Handles of the C ABI: tokens that are looked up, never followed, so that a closed one is recognised.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "error.hpp"

namespace gstk::impl {

// A token that was never given out before, for handles of all types together: one of a type is none of another.
inline std::uintptr_t next_token() {
    static std::atomic<std::uintptr_t> latest{0};
    return ++latest;
}

// `Handle` is the opaque C type, `Object` what stands behind it.
template <class Handle, class Object>
class Handles {
  public:
    explicit Handles(const char* name) : name_(name) {}

    Handle* add(std::shared_ptr<Object> object) {
        const std::lock_guard<std::mutex> lock(mutex_);
        const std::uintptr_t token = next_token();
        objects_.emplace(token, std::move(object));
        return reinterpret_cast<Handle*>(token);
    }

    // The object, which stays alive while the caller has it, even if its handle is closed meanwhile.
    std::shared_ptr<Object> get(const Handle* handle) const {
        if (!handle) throw error(GSTK_ERROR_ARGUMENT, "got a null ", name_, ", expected an open one");
        const std::lock_guard<std::mutex> lock(mutex_);
        const auto found = objects_.find(reinterpret_cast<std::uintptr_t>(handle));
        if (found == objects_.end()) throw closed();
        return found->second;
    }

    // Puts another object behind a handle; who has the one before keeps it.
    void replace(const Handle* handle, std::shared_ptr<Object> object) {
        const std::lock_guard<std::mutex> lock(mutex_);
        const auto found = objects_.find(reinterpret_cast<std::uintptr_t>(handle));
        if (found == objects_.end()) throw closed();
        std::swap(found->second, object);
    }

    void close(const Handle* handle) {
        if (!handle) return;
        std::shared_ptr<Object> last;  // destroyed after the lock is gone: it may call back into the host
        const std::lock_guard<std::mutex> lock(mutex_);
        const auto found = objects_.find(reinterpret_cast<std::uintptr_t>(handle));
        if (found == objects_.end()) throw closed();
        last = std::move(found->second);
        objects_.erase(found);
    }

  private:
    Error closed() const {
        return error(GSTK_ERROR_CLOSED, "got a ", name_, " that was closed, or another kind of handle; open one first");
    }

    const char* name_;
    mutable std::mutex mutex_;
    std::unordered_map<std::uintptr_t, std::shared_ptr<Object>> objects_;
};

}  // namespace gstk::impl
