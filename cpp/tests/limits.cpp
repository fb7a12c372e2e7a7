// Calls with a time limit: a mask comes before it is over, whatever the engine does, and calls can be ended.
//
//     limits BUNDLE
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <deque>
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
    std::vector<Shape> encoded;
    std::atomic<bool> runs{false};
    bool broken = false;

  protected:
    void run_encoder(const float* image, Embedding& embedding, const Wait& wait) override {
        if (broken) throw std::runtime_error("broken");
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
    return std::make_shared<const Volume>(Volume{Geometry({kSide, kSide, kSide}, {1, 1, 1}), GSTK_UINT8, owner, ""});
}

// Seconds a million voxels; the numbers are those of a_model in tests/latency.py.
LatencyModel a_model(double encode_s, double decode_s) {
    const auto fit = [](const std::string& weights) {
        return "{\"weights\": " + weights + ", \"spread\": 1.25, \"median_error\": 0.05, \"sizes\": [], \"factors\": []}";
    };
    const std::string encode = fit("[0.01, " + std::to_string(encode_s) + "]"),
                      decode = fit("[0.01, 0, 0, " + std::to_string(decode_s) + ", 0]");
    return LatencyModel::parse(
        R"({"schema": 2, "bundle": "a", "bundle_sha256": "0", "load_s": 0.5, "startup_s": 1, "base_bytes": 1000,
            "bytes_per_voxel": 1, "largest_voxels": 9, "measured_at": "now", "host": {"processor": "p", "cores": 2,
            "memory_bytes": 1, "device": "cpu", "backend": "b", "version": "1", "precision": "fp32", "settings": ""},
            "fits": {"encode": )" +
            encode + ", \"first_encode\": " + encode + ", \"decode\": " + decode + ", \"first_decode\": " + decode +
            "}}",
        "a model");
}

struct Host {
    explicit Host(const char* bundle, std::optional<LatencyModel> model = std::nullopt)
        : engine(std::make_shared<SlowEngine>(bundle)),
          session(engine, {Framing{kSide * kSide * kSide, 8, 16}, false, std::move(model)}) {
        session.set_image(a_ball());
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
    bool gave_up(const char* words) { return std::strstr(session.report().given_up->c_str(), words) != nullptr; }

    std::shared_ptr<SlowEngine> engine;
    Session session;
};

constexpr std::int64_t kBall = 4169, kClick = 123;  // voxels of the ball, and of what a click makes without the network
const Triple kCentre{24, 24, 24};

void a_mask_comes_in_time(const char* bundle) {
    for (const bool has_model : {false, true}) {
        Host host(bundle, has_model ? std::optional<LatencyModel>(a_model(4, 0.5)) : std::nullopt);
        host.session.set_time_limit(0.3);
        host.engine->seconds = {kAges, kAges, kAges};
        host.session.add_point(kCentre, true, 1);
        CHECK(host.session.report().spent_s < kSoon);
        CHECK(host.session.report().limit_s == 0.3);
        CHECK(host.session.report().guessed && host.gave_up("prompts alone"));
        CHECK(host.voxels() == kClick);
        // The next call looks again, and all can be taken back.
        host.engine->seconds = {};
        host.session.set_time_limit(0);
        host.session.add_point({24, 24, 26}, true, 1);
        CHECK(!host.session.report().guessed && host.session.report().given_up->empty());
        CHECK(host.voxels() == kBall);
        host.session.undo();
        CHECK(host.voxels() == kClick);
        host.session.undo();
        CHECK(host.voxels() == 0);
        // A look that is over in time, and one that suits the mask better but is not.
        host.session.set_time_limit(0.3);
        host.engine->seconds = {0, 0, kAges};
        host.session.add_box({{20, 20, 20}, {28, 28, 28}, 24}, 1);
        CHECK(host.session.report().spent_s < kSoon && host.voxels() > kClick);
    }
}

void a_guess_keeps_to_what_was_said(const char* bundle) {
    Host host(bundle);
    host.session.set_time_limit(0.1);
    host.engine->seconds = {kAges};
    host.session.set_prompts({{{{24, 24, 24}, false}, {{4, 4, 4}, true}}, Box{{12, 12, 12}, {36, 36, 36}, 24}}, 1);
    const auto mask = host.mask();
    const auto at = [&](std::int64_t z, std::int64_t y, std::int64_t x) { return mask[(z * kSide + y) * kSide + x]; };
    CHECK(at(4, 4, 4) == 1 && at(24, 24, 24) == 0 && at(24, 24, 32) == 1 && at(12, 12, 12) == 0);
}

void windows_fit_the_time(const char* bundle) {
    Host host(bundle, a_model(400, 10));
    std::int64_t before = 0;
    for (const double limit_s : {15.0, 40.0, 10000.0}) {
        host.session.reset(0);
        host.engine->encoded.clear();
        host.session.set_time_limit(limit_s);
        host.session.add_point(kCentre, true, 1);
        const CallReport report = host.session.report();
        CHECK(!host.engine->encoded.empty());
        const std::int64_t seen = count_of(host.engine->encoded.front());
        CHECK(seen > before);
        before = seen;
        // Nothing here takes any time: what is expected, the first look's half of the limit, is the model's word.
        CHECK(report.expected_s > 0 && report.expected_s < limit_s && !report.guessed);
        CHECK(report.encodes >= 1 && report.decodes >= report.encodes);
        CHECK(host.gave_up("voxels: they have") == (limit_s < 10000));
    }
}

void clicks_are_taken_at_once_where_time_is_short(const char* bundle) {
    Host host(bundle, a_model(1, 1000));
    ObjectPrompts many;
    for (std::int64_t k = 0; k < 8; ++k) many.points.push_back({{24, 24, 20 + k}, true});
    host.session.set_time_limit(20);
    host.session.set_prompts(many, 1);
    CHECK(host.gave_up("taken at once"));
    CHECK(host.session.report().decodes < 8 && host.voxels() > kBall * 7 / 10);
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
    Session quick(slow.engine, {Framing{kSide * kSide * kSide, 8, 16}, false, {}});
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
    CHECK(quick.report().guessed && quick.report().spent_s < kSoon);
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

void the_pace_follows_the_clock(const char* bundle) {
    const auto engine = std::make_shared<SlowEngine>(bundle);
    TimedEngine timed(engine, a_model(10, 1));
    const Grid<float> image({16, 16, 16});
    const double modelled_s = timed.encode_s(image.shape);
    CHECK(timed.pace() == 1);
    engine->seconds = {8 * modelled_s, 8 * modelled_s};
    for (int i = 0; i < 2; ++i) timed.encode(image, {});
    CHECK(timed.pace() >= 8 && timed.encode_s(image.shape) >= 8 * modelled_s);
    for (int i = 0; i < 4; ++i) timed.encode(image, {});
    CHECK(timed.pace() < 8);
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
         {a_mask_comes_in_time, a_guess_keeps_to_what_was_said, windows_fit_the_time,
          clicks_are_taken_at_once_where_time_is_short, a_call_can_be_cancelled, sessions_do_not_hold_each_other_up,
          errors_are_not_taken_for_lack_of_time, the_pace_follows_the_clock, the_cache_drops_the_oldest})
        test(arguments[1]);
    return failures() ? 1 : 0;
}
