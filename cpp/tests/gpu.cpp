// The TensorRT engine through the C ABI, on the stand-in of tests/fake_tensorrt.
//
//     gpu BUNDLE PLANS calls|memory|lost|graphs
//
// PLANS: for regions of 16 voxels to 32, four objects, six points. `memory`: the GPU has room for two objects in the
// largest region, not for four; `lost`: its second run fails.
#include <cmath>
#include <cstring>
#include <gstk/gstk.hpp>
#include <string>
#include <thread>

#include "check.hpp"

namespace {

using Logits = std::vector<float>;
using Embedding = gstk::Owned<gstk_embedding, gstk_embedding_close>;

constexpr std::int64_t kSmall = 16, kLarge = 32;

std::size_t voxels(std::int64_t side) {
    return static_cast<std::size_t>(side * side * side);
}

std::vector<float> image(std::int64_t side, int seed) {
    std::vector<float> found(voxels(side));
    for (std::size_t i = 0; i < found.size(); ++i)
        found[i] = 0.5f + 0.5f * std::sin(static_cast<float>(seed + 1) * 0.1f * static_cast<float>(i));
    return found;
}

gstk_status encode(const gstk::Engine& engine, std::int64_t side, int seed, Embedding& embedding) {
    const std::int64_t shape[3] = {side, side, side};
    return gstk_engine_encode(engine.get(), image(side, seed).data(), shape, embedding.put());
}

// Logits of objects with a point each, (3 + object) along each axis.
gstk_status decode(const gstk::Engine& engine, Embedding& embedding, std::int64_t side, std::size_t first,
                   std::size_t objects, Logits& logits, std::size_t points = 1) {
    std::vector<float> coords;
    for (std::size_t i = 0; i < objects * points; ++i)
        coords.insert(coords.end(), 3, static_cast<float>(3 + first + i / points));
    const std::vector<std::int64_t> labels(objects * points, 1);
    logits.assign(objects * voxels(side), -77);
    return gstk_engine_decode(engine.get(), embedding.get(), coords.data(), labels.data(), objects, points,
                              logits.data(), logits.size());
}

bool agree(const Logits& a, const Logits& b) {
    if (a.size() != b.size()) return false;
    for (std::size_t i = 0; i < a.size(); ++i)
        if (!(std::fabs(a[i] - b[i]) <= 1e-4f)) return false;
    return true;
}

// Objects together as one by one.
void check_groups(const gstk::Engine& engine, Embedding& embedding, std::int64_t side, std::size_t objects) {
    Logits together, one, each;
    CHECK(decode(engine, embedding, side, 0, objects, together) == GSTK_OK);
    for (std::size_t b = 0; b < objects; ++b) {
        CHECK(decode(engine, embedding, side, b, 1, one) == GSTK_OK);
        each.insert(each.end(), one.begin(), one.end());
    }
    CHECK(agree(together, each));
}

bool said(const char* words) {
    return std::strstr(gstk_last_error(), words) != nullptr;
}

void calls(const gstk::Engine& engine) {
    Embedding small, large, odd;
    CHECK(encode(engine, kSmall, 0, small) == GSTK_OK && encode(engine, kLarge, 1, large) == GSTK_OK);
    for (const std::size_t objects : {1, 3, 4, 7, 9}) check_groups(engine, small, kSmall, objects);
    check_groups(engine, large, kLarge, 5);
    Logits logits, before, after;
    CHECK(encode(engine, 48, 0, odd) == GSTK_ERROR_ENGINE && said("gstk build --roi"));
    CHECK(decode(engine, small, kSmall, 0, 1, logits, 7) == GSTK_ERROR_ENGINE && said("--points 7"));
    // An embedding keeps its own memory, whatever is encoded after it.
    CHECK(decode(engine, small, kSmall, 0, 2, before) == GSTK_OK);
    for (int seed = 2; seed < 5; ++seed) {
        Embedding other;
        CHECK(encode(engine, kSmall, seed, other) == GSTK_OK);
        CHECK(decode(engine, other, kSmall, 0, 2, after) == GSTK_OK && !agree(before, after));
    }
    CHECK(decode(engine, small, kSmall, 0, 2, after) == GSTK_OK && agree(before, after));
    // Encodes and decodes of several threads share a stream and memory, and keep apart.
    std::vector<std::thread> users;
    users.emplace_back([&] {
        for (int seed = 0; seed < 6; ++seed) {
            Embedding other;
            CHECK(encode(engine, seed % 2 ? kLarge : kSmall, seed, other) == GSTK_OK);
        }
    });
    users.emplace_back([&] {
        Logits found;
        for (int i = 0; i < 6; ++i)
            CHECK(decode(engine, small, kSmall, 0, 2, found) == GSTK_OK && agree(before, found));
    });
    for (auto& user : users) user.join();
}

void memory(const gstk::Engine& engine) {
    Embedding large;
    CHECK(encode(engine, kLarge, 1, large) == GSTK_OK);
    check_groups(engine, large, kLarge, 4);
    std::vector<Embedding> many(4096);  // more than there is room for
    std::size_t made = 0;
    gstk_status status = GSTK_OK;
    while (made < many.size() && (status = encode(engine, kLarge, 2, many[made])) == GSTK_OK) ++made;
    CHECK(made > 0 && status == GSTK_ERROR_MEMORY && said("memory"));
    many.clear();
    check_groups(engine, large, kLarge, 2);
}

// Clicks one after the other, of which more and more are CUDA graphs, as they were in the beginning.
void graphs(const gstk::Engine& engine) {
    Embedding first, second, large;
    CHECK(encode(engine, kSmall, 0, first) == GSTK_OK && encode(engine, kSmall, 1, second) == GSTK_OK);
    std::vector<Logits> expected(13);
    for (int turn = 0; turn < 4; ++turn)
        for (std::size_t points = 1; points <= 6; ++points)
            for (std::size_t which = 0; which < 2; ++which) {
                Logits found, &known = expected[2 * points + which - 2];
                CHECK(decode(engine, which ? second : first, kSmall, 0, 1, found, points) == GSTK_OK);
                if (known.empty()) known = found;
                CHECK(agree(found, known));
            }
    CHECK(!agree(expected[0], expected[1]) && !agree(expected[0], expected[4]));
    CHECK(encode(engine, kLarge, 0, large) == GSTK_OK);  // memory moves, and the graphs end
    check_groups(engine, large, kLarge, 4);
    for (int turn = 0; turn < 3; ++turn) {
        Logits found;
        CHECK(decode(engine, second, kSmall, 0, 1, found, 2) == GSTK_OK && agree(found, expected[3]));
    }
}

void lost(const gstk::Engine& engine, const char* bundle, const char* plans) {
    Embedding small, other;
    Logits logits;
    CHECK(encode(engine, kSmall, 0, small) == GSTK_OK);
    CHECK(decode(engine, small, kSmall, 0, 1, logits) == GSTK_ERROR_DEVICE && said("illegal memory access"));
    CHECK(decode(engine, small, kSmall, 0, 1, logits) == GSTK_ERROR_DEVICE && said("start another process"));
    CHECK(encode(engine, kSmall, 0, other) == GSTK_ERROR_DEVICE);
    for (const char* backend : {"tensorrt", "auto"}) try {
            gstk::Engine(bundle, {backend, "fp32", "cuda", std::strcmp(backend, "auto") ? plans : "", "", 0});
            CHECK(false);
        } catch (const gstk::Error& error) {
            CHECK(error.code() == GSTK_ERROR_DEVICE);
        }
    gstk::Engine(bundle, {"auto", "fp32", "cpu", "", "", 0});  // the processor is as it was
}

}  // namespace

int main(int count, char** arguments) {
    if (count != 4) return 2;
    const std::string what = arguments[3];
    const gstk::Engine engine(arguments[1], {"tensorrt", "fp32", "cuda:0", arguments[2], "", 0});
    CHECK(std::string(engine.describe().device) == "cuda:0: NVIDIA Fake 24GB");
    if (what == "calls") calls(engine);
    if (what == "memory") memory(engine);
    if (what == "graphs") graphs(engine);
    if (what == "lost") lost(engine, arguments[1], arguments[2]);
    return failures() ? 1 : 0;
}
