// The session on an engine whose masks and times are known: prompts and history, time limits, cancelling.
//
//     session BUNDLE
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <limits>
#include <string>
#include <thread>

#include "check.hpp"
#include "session.hpp"

namespace {

using namespace gstk::impl;

constexpr double kAges = 600;  // seconds that nobody waits for
constexpr double kSoon = 120;  // that a call of a limit below a second is surely over in, on any machine
constexpr std::int64_t kSide = 48;

// An engine whose masks are known, the bright component under the foreground points, and that takes its time.
class SlowEngine final : public Engine {
  public:
    explicit SlowEngine(const char* bundle) : Engine("slow", Bundle::open(bundle), "fp32") {}

    std::deque<double> seconds;  // of the next runs; none where it is empty
    std::int64_t quick_voxels = std::numeric_limits<std::int64_t>::max();  // an encode of more than these takes ages
    std::vector<Shape> encoded;  // the regions of runs that came to their end
    std::atomic<bool> runs{false};
    bool broken = false;

  protected:
    void run_encoder(const float* image, Embedding& embedding, const Wait& wait) override {
        if (broken) throw std::runtime_error("broken");
        if (count_of(embedding.roi_shape) > quick_voxels) seconds.push_front(kAges);
        pass_time(wait);
        encoded.push_back(embedding.roi_shape);
        auto bright = std::make_shared<Grid<std::uint8_t>>(embedding.roi_shape);
        std::transform(image, image + bright->values.size(), bright->values.begin(), [](float v) { return v > 0.5f; });
        embedding.size_bytes = bright->values.size();
        embedding.handle = std::move(bright);
    }
    void run_decoder(const Embedding& embedding, const float* coords, const std::int64_t* labels, std::int64_t,
                     std::int64_t points, float* logits, const Wait& wait) override {
        pass_time(wait);
        std::vector<std::array<float, 3>> clicked;
        for (std::int64_t i = 0; i < points; ++i)
            if (labels[i] == 1) clicked.push_back({coords[3 * i], coords[3 * i + 1], coords[3 * i + 2]});
        const auto held = clicked_components(*static_cast<const Grid<std::uint8_t>*>(embedding.handle.get()), clicked);
        std::transform(held.values.begin(), held.values.end(), logits, [](std::uint8_t v) { return v ? 4.0f : -4.0f; });
    }

  private:
    void pass_time(const Wait& wait) {
        if (seconds.empty()) return;
        const Deadline done(seconds.front());
        seconds.pop_front();
        std::mutex mutex;
        std::condition_variable changed;
        bool ended = false;
        const Cancellation::Hook hook(wait.cancellation, [&] {
            const std::lock_guard<std::mutex> lock(mutex);
            ended = true;
            changed.notify_all();
        });
        std::unique_lock<std::mutex> lock(mutex);
        runs = true;
        const double left_s = std::min(done.left_s(), wait.deadline.left_s());
        changed.wait_for(lock, std::chrono::duration<double>(std::max(0.0, left_s)), [&] { return ended; });
        runs = false;
        if (ended) throw std::runtime_error("ended");
        if (done.left_s() > 0) throw TimeUp{};
    }
};

std::shared_ptr<const Volume> a_ball() {
    auto voxels = std::make_shared<std::vector<std::uint8_t>>();
    for (std::int64_t i = 0; i < kSide * kSide * kSide; ++i) {
        const std::int64_t z = i / kSide / kSide - 24, y = i / kSide % kSide - 24, x = i % kSide - 24;
        voxels->push_back(z * z + y * y + x * x <= 100 ? 200 : 20);
    }
    const std::shared_ptr<const void> owner(voxels, voxels->data());
    return std::make_shared<const Volume>(Volume{Geometry({kSide, kSide, kSide}, {1, 1, 1}), GSTK_UINT8, owner});
}

struct Host {
    explicit Host(const char* bundle, std::size_t history_bytes = SessionOptions{}.history_bytes)
        : engine(std::make_shared<SlowEngine>(bundle)), session(engine, options(history_bytes)) {
        session.set_image(a_ball());
    }

    static SessionOptions options(std::size_t history_bytes) {
        SessionOptions found{WindowPolicy{kSide * kSide * kSide, 8, 16}};
        found.history_bytes = history_bytes;
        return found;
    }
    std::uint16_t label(const Voxel& v) { return mask()[static_cast<std::size_t>((v[0] * kSide + v[1]) * kSide + v[2])]; }
    int undos() {
        for (int count = 0;; ++count) {
            try {
                session.undo();
            } catch (const Error& error) {
                CHECK(error.code() == GSTK_ERROR_PROMPT);
                return count;
            }
        }
    }
    std::vector<std::uint16_t> mask() {
        std::vector<std::uint16_t> found(kSide * kSide * kSide);
        session.read_mask(nullptr, found.data(), found.size());
        return found;
    }
    std::int64_t voxels(std::uint16_t object_id = 1) {
        const auto found = mask();
        return std::count(found.begin(), found.end(), object_id);
    }
    bool skipped(const char* words) { return std::strstr(session.report().compromises->c_str(), words) != nullptr; }

    std::shared_ptr<SlowEngine> engine;
    Session session;
};

constexpr std::int64_t kBall = 4169, kClick = 123;  // voxels of the ball, and of what a click makes without the network
const Triple kCentre{24, 24, 24};

void a_mask_comes_in_time(const char* bundle) {
    Host host(bundle);
    host.session.set_time_limit(0.3);
    host.engine->seconds = {kAges};
    host.session.add_point(kCentre, true, 1);
    CHECK(host.session.report().spent_s < kSoon);
    CHECK(host.session.report().limit_s == 0.3);
    CHECK(host.session.report().is_fallback && host.skipped("the prompts alone"));
    CHECK(host.voxels() == kClick);
    // The next call asks the network again, and all can be taken back.
    host.engine->seconds = {};
    host.session.set_time_limit(0);
    host.session.add_point({24, 24, 26}, true, 1);
    CHECK(!host.session.report().is_fallback && host.session.report().compromises->empty());
    CHECK(host.voxels() == kBall);
    host.session.undo();
    CHECK(host.voxels() == kClick);
    host.session.undo();
    CHECK(host.voxels() == 0);
    // An answer that is there in time, and one in a window that suits the mask better but is not.
    host.session.set_time_limit(0.3);
    host.engine->seconds = {0, 0, kAges};
    host.session.add_box({{20, 20, 20}, {28, 28, 28}, 24}, 1);
    CHECK(host.session.report().spent_s < kSoon && host.voxels() > kClick);
}

void a_fallback_keeps_to_the_prompts(const char* bundle) {
    Host host(bundle);
    host.session.set_time_limit(0.1);
    host.engine->seconds = {kAges};
    host.session.set_prompts({{{{24, 24, 24}, false}, {{4, 4, 4}, true}}, Box{{12, 12, 12}, {36, 36, 36}, 24}}, 1);
    CHECK(host.session.report().is_fallback);
    CHECK(host.label({4, 4, 4}) == 1 && host.label({24, 24, 24}) == 0);
    CHECK(host.label({24, 24, 32}) == 1 && host.label({12, 12, 12}) == 0);
}

// The first call under a limit runs the coarsest window first; what finer windows cost is learnt from those that were
// tried.
void windows_fit_the_time(const char* bundle) {
    Host host(bundle);
    host.engine->quick_voxels = 60000;
    host.session.set_time_limit(1);
    host.session.add_point(kCentre, true, 1);
    CHECK(host.engine->encoded.size() == 1 && count_of(host.engine->encoded[0]) == 16 * 16 * 16);
    CHECK(!host.session.report().is_fallback && host.skipped("a finer window") && host.voxels() > kBall / 2);
    host.session.add_point({24, 24, 26}, true, 2);
    CHECK(!host.session.report().is_fallback && host.skipped("a finer window"));
    const auto finer = host.engine->encoded.back();
    CHECK(host.engine->encoded.size() > 1 && count_of(finer) > 16 * 16 * 16 && count_of(finer) <= 60000);
    // Without a limit the finest is waited for.
    host.engine->quick_voxels = kSide * kSide * kSide;
    host.session.set_time_limit(0);
    host.session.add_point(kCentre, true, 3);
    CHECK(count_of(host.engine->encoded.back()) > 60000 && host.session.report().compromises->empty());
}

void clicks_are_taken_at_once_where_time_is_short(const char* bundle) {
    Host host(bundle);
    host.engine->seconds = {0, 2};
    host.session.add_point(kCentre, true, 2);
    ObjectPrompts many;
    for (std::int64_t k = 0; k < 8; ++k) many.points.push_back({{24, 24, 20 + k}, true});
    host.session.set_time_limit(10);
    host.session.set_prompts(many, 1);
    CHECK(host.skipped("all of them at once"));
    CHECK(host.session.report().decodes < 8 && host.voxels() > kBall * 7 / 10);
}

void clicked_voxels_are_as_clicked(const char* bundle) {
    Host host(bundle);
    const Voxel dark{4, 5, 6}, bright{24, 24, 27};
    host.session.add_point(kCentre, true, 1);
    host.session.add_point({4, 5, 6}, true, 1);  // where the engine sees no object
    CHECK(host.label(dark) == 1 && host.label(bright) == 1);
    host.session.add_point({24, 24, 27}, false, 1);  // where it sees one
    CHECK(host.label(dark) == 1 && host.label(bright) == 0);
    host.session.add_point({24, 24, 27}, true, 1);
    CHECK(host.label(bright) == 1);
}

void the_same_prompts_are_no_change(const char* bundle) {
    Host host(bundle);
    const ObjectPrompts prompts{{{{24, 24, 24}, true}}, {}};
    host.session.set_prompts({}, 1);
    CHECK(host.undos() == 0);
    host.session.set_prompts(prompts, 1);
    const auto decodes = host.session.counts().decodes;
    CHECK(host.session.set_prompts(prompts, 1) == Region{});
    CHECK(host.session.counts().decodes == decodes);
    host.session.add_box({{14, 14, 14}, {34, 34, 34}, 24}, 1);
    host.session.add_box({{14, 14, 14}, {34, 34, 34}, 24}, 1);
    CHECK(host.undos() == 2);
}

void what_was_undone_is_done_again(const char* bundle) {
    Host host(bundle);
    const auto refused = [&] {
        try {
            host.session.redo();
        } catch (const Error& error) {
            return error.code() == GSTK_ERROR_PROMPT;
        }
        return false;
    };
    CHECK(refused());
    host.session.add_point(kCentre, true, 1);
    host.session.add_point({4, 5, 6}, true, 2);
    const auto both = host.mask();
    host.session.undo();
    host.session.undo();
    CHECK(host.voxels() == 0);
    host.session.redo();
    CHECK(host.voxels() == kBall);
    host.session.redo();
    CHECK(host.mask() == both && refused());
    host.session.undo();
    host.session.add_point({4, 5, 7}, true, 2);
    CHECK(refused());
    CHECK(host.undos() == 2);
}

// A mask that was dropped for want of memory is computed again, whatever the limit of calls is.
void undo_recomputes(const char* bundle) {
    Host host(bundle, 0);
    host.session.add_point(kCentre, true, 1);
    const auto before = host.mask();
    host.session.add_point({4, 5, 6}, true, 1);
    const auto decodes = host.session.counts().decodes;
    host.session.set_time_limit(0.05);
    host.engine->seconds = {1};
    host.session.undo();
    CHECK(host.session.counts().decodes > decodes && host.mask() == before);
    CHECK(!host.session.report().is_fallback && host.session.report().limit_s == 0);
    host.session.set_time_limit(0);
    host.session.redo();
    host.session.cancel();  // of no call, so that the next one is not concerned
    host.session.undo();
    CHECK(host.mask() == before);
}

// Cancels until a call ended so; returns what it threw, or GSTK_OK.
template <class Call>
gstk_status ended(Session& session, Call&& call) {
    std::atomic<bool> done{false};
    std::thread other([&] {
        while (!done) {
            session.cancel();
            std::this_thread::sleep_for(std::chrono::milliseconds(2));
        }
    });
    gstk_status status = GSTK_OK;
    try {
        call();
    } catch (const Error& error) {
        status = error.code();
    }
    done = true;
    other.join();
    return status;
}

void a_call_can_be_cancelled(const char* bundle) {
    Host host(bundle);
    host.session.add_point(kCentre, true, 1);
    const auto before = host.mask();
    const double spent_s = host.session.report().spent_s;
    for (const double limit_s : {0.0, kAges}) {
        host.session.set_time_limit(limit_s);
        host.engine->seconds = {kAges};
        CHECK(ended(host.session, [&] { host.session.add_point({1, 1, 1}, true, 2); }) == GSTK_ERROR_CANCELLED);
        CHECK(host.mask() == before && host.session.report().spent_s == spent_s && !host.session.window(2));
    }
    host.engine->seconds = {};
    host.session.cancel();  // of no call
    host.session.add_point({24, 24, 26}, true, 1);
    host.session.undo();
    CHECK(host.mask() == before);
}

// Two sessions share an engine: neither outlasts its limit for the other's sake, nor ends the other's run.
void sessions_do_not_hold_each_other_up(const char* bundle) {
    Host slow(bundle);
    Session quick(slow.engine, {WindowPolicy{kSide * kSide * kSide, 8, 16}});
    quick.set_image(a_ball());
    quick.set_time_limit(0.2);
    slow.engine->seconds = {kAges};
    std::atomic<gstk_status> status{GSTK_OK};
    std::thread other([&] {
        try {
            slow.session.add_point(kCentre, true, 1);
        } catch (const Error& error) {
            status = error.code();
        }
    });
    while (!slow.engine->runs) std::this_thread::yield();
    quick.cancel();
    quick.add_point(kCentre, true, 1);
    CHECK(quick.report().is_fallback && quick.report().spent_s < kSoon);
    quick.set_time_limit(0);
    CHECK(ended(quick, [&] { quick.add_point(kCentre, true, 2); }) == GSTK_ERROR_CANCELLED);
    CHECK(slow.engine->runs && status == GSTK_OK);
    while (slow.engine->runs) slow.session.cancel();
    other.join();
    CHECK(status == GSTK_ERROR_CANCELLED);
}

void errors_are_not_taken_for_lack_of_time(const char* bundle) {
    Host host(bundle);
    host.session.set_time_limit(kAges);
    host.engine->broken = true;
    gstk_status status = GSTK_OK;
    try {
        host.session.add_point(kCentre, true, 1);
    } catch (const Error& error) {
        status = error.code();
    }
    CHECK(status == GSTK_ERROR_ENGINE && host.voxels() == 0);
}

void run_times_say_what_the_next_run_takes(const char*) {
    RunTimes times;
    CHECK(times.empty() && times.expected_s(1000) == 0);
    times.add(1000, 2);
    CHECK(times.expected_s(1000) == 2 && times.expected_s(8000) == 16);
    times.add(8000, 4);
    CHECK(times.expected_s(1000) == 2 && times.expected_s(8000) == 4 && times.expected_s(16000) == 8);
    times.add(8000, 5);
    CHECK(times.expected_s(8000) == 5);  // the newest of a size
    for (int i = 0; i < 3; ++i) times.add(8000, 6);
    CHECK(times.expected_s(1000) == 0.75);  // the first is forgotten
}

void the_cache_drops_the_oldest(const char*) {
    EmbeddingCache cache(250);
    const auto window = [](double start) { return Window{{start, 0, 0}, {1, 1, 1}, {16, 16, 16}}; };
    const auto embedding = [](std::size_t bytes) {
        return std::make_shared<const Embedding>(Embedding{1, {16, 16, 16}, nullptr, bytes});
    };
    cache.put(window(1), embedding(100));
    cache.put(window(2), embedding(100));
    CHECK(cache.get(window(1)) && cache.size_bytes() == 200);  // the newest now
    cache.put(window(3), embedding(100));
    CHECK(cache.holds(window(1)) && !cache.holds(window(2)) && cache.holds(window(3)) && cache.size_bytes() == 200);
    cache.put(window(4), embedding(1000));  // stays, though it alone takes more
    CHECK(!cache.holds(window(3)) && cache.get(window(4)) && cache.size_bytes() == 1000);
    cache.clear();
    CHECK(!cache.get(window(4)) && cache.size_bytes() == 0);
}

}  // namespace

int main(int count, char** arguments) {
    if (count != 2) return 2;
    for (const auto& test :
         {clicked_voxels_are_as_clicked, the_same_prompts_are_no_change, what_was_undone_is_done_again, undo_recomputes,
          a_mask_comes_in_time, a_fallback_keeps_to_the_prompts, windows_fit_the_time,
          clicks_are_taken_at_once_where_time_is_short, a_call_can_be_cancelled, sessions_do_not_hold_each_other_up,
          errors_are_not_taken_for_lack_of_time, run_times_say_what_the_next_run_takes, the_cache_drops_the_oldest})
        test(arguments[1]);
    return failures() ? 1 : 0;
}
