// Time that is left for a call, and other threads that end it; mirrors gstk.session.deadline.
#pragma once

#include <algorithm>
#include <chrono>
#include <functional>
#include <limits>
#include <mutex>

#include "error.hpp"

namespace gstk::impl {

// Seconds of a clock that never goes back.
inline double now_s() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The time for a call is over; what there is has to do. It never leaves the library.
struct TimeUp {};

// A moment by which an answer must be there; or none.
class Deadline {
  public:
    Deadline() = default;
    // Begins now; infinity is never.
    explicit Deadline(double seconds) : end_s_(now_s() + seconds) {}

    bool is_set() const { return end_s_ < std::numeric_limits<double>::infinity(); }
    // Infinite, or negative when it has passed.
    double left_s() const { return end_s_ - now_s(); }
    // The same, but `seconds` from now at the latest.
    Deadline sooner(double seconds) const {
        Deadline found(seconds);
        found.end_s_ = std::min(found.end_s_, end_s_);
        return found;
    }

  private:
    double end_s_ = std::numeric_limits<double>::infinity();
};

// Lets other threads end a call.
class Cancellation {
  public:
    // Forgets a `cancel` that came before.
    void begin() {
        const std::lock_guard<std::mutex> lock(mutex_);
        is_set_ = false;
    }
    void cancel() {
        const std::lock_guard<std::mutex> lock(mutex_);
        is_set_ = true;
        if (end_) end_();
    }
    bool is_set() const {
        const std::lock_guard<std::mutex> lock(mutex_);
        return is_set_;
    }

    // While it lives, `cancel` calls `end`; at once where it came before. `end` only asks, and waits for nothing.
    class Hook {
      public:
        Hook(Cancellation* cancellation, std::function<void()> end) : cancellation_(cancellation) {
            if (!cancellation_) return;
            const std::lock_guard<std::mutex> lock(cancellation_->mutex_);
            cancellation_->end_ = std::move(end);
            if (cancellation_->is_set_) cancellation_->end_();
        }
        Hook(const Hook&) = delete;
        Hook& operator=(const Hook&) = delete;
        ~Hook() {
            if (!cancellation_) return;
            const std::lock_guard<std::mutex> lock(cancellation_->mutex_);
            cancellation_->end_ = nullptr;
        }

      private:
        Cancellation* cancellation_;
    };

  private:
    mutable std::mutex mutex_;
    bool is_set_ = false;
    std::function<void()> end_;
};

// How long somebody waits for a run of an engine.
struct Wait {
    Deadline deadline;
    Cancellation* cancellation = nullptr;

    bool is_cancelled() const { return cancellation && cancellation->is_set(); }
    // Throws GSTK_ERROR_CANCELLED or `TimeUp` where the wait is over.
    void check() const {
        if (is_cancelled())
            throw error(GSTK_ERROR_CANCELLED, "got gstk_session_cancel during the call; all is as it was before it");
        if (deadline.left_s() < 0) throw TimeUp{};
    }
};

}  // namespace gstk::impl
