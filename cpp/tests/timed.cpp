// Time limits and cancelling through the public API, with the bundle's own engine.
//
//     timed BUNDLE [BACKEND]
#include <csignal>
#include <cstring>
#include <gstk/gstk.hpp>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "check.hpp"

namespace {

constexpr std::int64_t kSide = 64;
const gstk::Triple kCentre{32, 32, 32};

using Mask = std::vector<std::uint16_t>;

gstk::Volume a_ball() {
    std::vector<std::uint8_t> voxels;
    for (std::int64_t i = 0; i < kSide * kSide * kSide; ++i) {
        const std::int64_t z = i / kSide / kSide - 32, y = i / kSide % kSide - 32, x = i % kSide - 32;
        voxels.push_back(static_cast<std::uint8_t>((z * z + y * y + x * x <= 200 ? 180 : 40) + (7 * i) % 13));
    }
    return gstk::Volume::take(std::move(voxels), {kSide, kSide, kSide}, {1, 1, 1});
}

std::int64_t clicked(const Mask& mask) {
    return mask[static_cast<std::size_t>((32 * kSide + 32) * kSide + 32)];
}

// A graph that was interrupted at some layer computes afterwards what it did before, also for regions of other sides.
void an_engine_goes_on_after_time_was_up(const gstk::Engine& engine) {
    const gstk::Volume volume = a_ball();
    gstk::Session small(engine, {std::nullopt, 32 * 32 * 32, 0}), large(engine);
    const auto fresh_mask = [&](gstk::Session& session) {
        session.set_image(volume);
        session.add_point(kCentre);
        return session.mask();
    };
    const Mask expected = fresh_mask(small), expected_large = fresh_mask(large);
    CHECK(clicked(expected) == 1 && !small.report().is_fallback && small.report().limit_s == 0);
    int fallbacks = 0;
    const auto limited = [&](double limit_s) {
        large.set_time_limit(limit_s);
        large.reset();
        large.add_point(kCentre);
        CHECK(clicked(large.mask()) == 1 && large.report().limit_s == limit_s);
        fallbacks += large.report().is_fallback;
        large.set_time_limit(0);
        CHECK(fresh_mask(small) == expected);
    };
    for (const double limit_s : {0.01, 0.03, 0.1, 0.3}) {
        large.set_image(volume);
        limited(limit_s);  // the encoder is interrupted
        large.undo();      // and the final mask in the place of the first one
        large.add_point(kCentre);
        CHECK(large.mask() == expected_large);
        large.set_image(volume);
        limited(limit_s);
        CHECK(fresh_mask(large) == expected_large);
        limited(limit_s / 5);  // the decoder
    }
    CHECK(fallbacks > 0);
}

void a_call_can_be_cancelled(const gstk::Engine& engine) {
    gstk::Session session(engine);
    session.set_image(a_ball());
    session.add_point({20, 32, 32});
    const Mask before = session.mask();
    for (const double limit_s : {0.0, 3600.0}) {
        session.set_time_limit(limit_s);
        gstk_status status = GSTK_OK;
        bool done = false;
        std::mutex mutex;
        std::thread other([&] {
            for (bool over = false; !over; std::this_thread::sleep_for(std::chrono::milliseconds(1))) {
                session.cancel();
                const std::lock_guard<std::mutex> lock(mutex);
                over = done;
            }
        });
        for (int tries = 0; tries < 20 && status == GSTK_OK; ++tries) {  // a call may be over before the other begins
            try {
                session.add_point({60, 60, 60}, true, 2);
                session.undo();
            } catch (const gstk::Error& error) {
                status = error.code();
                CHECK(std::string(error.what()).find("gstk_session_cancel") != std::string::npos);
            }
        }
        {
            const std::lock_guard<std::mutex> lock(mutex);
            done = true;
        }
        other.join();
        CHECK(status == GSTK_ERROR_CANCELLED);
        CHECK(session.mask() == before);
    }
    session.set_time_limit(0);
    session.add_point({20, 32, 34});
    session.undo();
    CHECK(session.mask() == before);
}

// An engine that is closed while a run of it goes on that nobody waits for; when it begins is the machine's.
void an_engine_is_closed_after_time_was_up(const char* bundle, const char* backend) {
    int fallbacks = 0;
    for (const double limit_s : {0.003, 0.03, 0.1}) {
        gstk::Session session(gstk::Engine(bundle, backend));
        session.set_image(a_ball());
        session.set_time_limit(limit_s);
        session.add_point(kCentre);
        fallbacks += session.report().is_fallback;
    }
    CHECK(fallbacks > 0);
}

volatile std::sig_atomic_t handled = 0;

// OpenVINO gives threads stacks for signal handlers; the one that is in use must not be freed.
void a_signal_is_handled_after_engines_were_closed(const char* bundle) {
    gstk_engine *first = nullptr, *second = nullptr;
    CHECK(gstk_engine_open(bundle, nullptr, &first) == GSTK_OK);
    CHECK(gstk_engine_open(bundle, nullptr, &second) == GSTK_OK);
    CHECK(gstk_engine_close(first) == GSTK_OK);
    CHECK(gstk_engine_close(second) == GSTK_OK);
    struct sigaction action {};
    action.sa_flags = SA_ONSTACK;
    action.sa_handler = [](int) {
        volatile char room[1024];
        for (std::size_t i = 0; i < sizeof room; ++i) room[i] = 1;
        handled = handled + room[5];
    };
    CHECK(sigaction(SIGUSR1, &action, nullptr) == 0);
    CHECK(raise(SIGUSR1) == 0);
    CHECK(handled == 1);
}

}  // namespace

int main(int count, char** arguments) {
    if (count != 2 && count != 3) return 2;
    a_signal_is_handled_after_engines_were_closed(arguments[1]);
    const char* backend = count == 3 ? arguments[2] : "auto";
    const gstk::Engine engine(arguments[1], backend);
    an_engine_goes_on_after_time_was_up(engine);
    a_call_can_be_cancelled(engine);
    an_engine_is_closed_after_time_was_up(arguments[1], backend);
    return failures() ? 1 : 0;
}
