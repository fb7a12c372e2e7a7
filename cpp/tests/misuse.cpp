// Every misuse of the C ABI returns a status and a message, and changes nothing.
//
//     misuse BUNDLE SCRATCH_FOLDER
#include <algorithm>
#include <cstddef>
#include <cstring>
#include <fstream>
#include <gstk/gstk.hpp>
#include <limits>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "check.hpp"

namespace {

// A call that must fail with a code and a one-line message that holds some words.
#define REFUSED(code, words, call)                                                                        \
    do {                                                                                                  \
        CHECK((call) == (code));                                                                          \
        CHECK(std::strstr(gstk_last_error(), words) != nullptr && !std::strchr(gstk_last_error(), '\n')); \
        if (!std::strstr(gstk_last_error(), words)) std::printf("    message: %s\n", gstk_last_error());  \
    } while (false)

const int64_t kShape[3] = {12, 20, 24};
const double kSpacing[3] = {2, 1, 1};

void engines(const char* bundle, const std::string& scratch) {
    gstk_engine* engine = nullptr;
    REFUSED(GSTK_ERROR_ARGUMENT, "bundle_path", gstk_engine_open(nullptr, nullptr, &engine));
    REFUSED(GSTK_ERROR_ARGUMENT, "engine", gstk_engine_open(bundle, nullptr, nullptr));
    REFUSED(GSTK_ERROR_BUNDLE, "nothing there", gstk_engine_open("/no/such/folder", nullptr, &engine));
    REFUSED(GSTK_ERROR_BUNDLE, "lacks manifest.json", gstk_engine_open(scratch.c_str(), nullptr, &engine));
    gstk_engine_options options = GSTK_ENGINE_OPTIONS_INIT;
    options.backend = "abacus";
    REFUSED(GSTK_ERROR_ENGINE, "abacus", gstk_engine_open(bundle, &options, &engine));
    options.backend = nullptr;
    REFUSED(GSTK_ERROR_ARGUMENT, "backend", gstk_engine_open(bundle, &options, &engine));
    options = GSTK_ENGINE_OPTIONS_INIT;
    options.precision = "fp64";
    REFUSED(GSTK_ERROR_BUNDLE, "fp64", gstk_engine_open(bundle, &options, &engine));
    options = GSTK_ENGINE_OPTIONS_INIT;
    options.threads = -1;
    REFUSED(GSTK_ERROR_ENGINE, "threads", gstk_engine_open(bundle, &options, &engine));
    options = GSTK_ENGINE_OPTIONS_INIT;
    for (const char* wrong : {"gpu", "cuda:", "cuda:x", "cuda:-1", "CPU", ""}) {
        options.device = wrong;
        REFUSED(GSTK_ERROR_ENGINE, "cuda:N", gstk_engine_open(bundle, &options, &engine));
    }
    options.device = nullptr;
    REFUSED(GSTK_ERROR_ARGUMENT, "device", gstk_engine_open(bundle, &options, &engine));
    options = GSTK_ENGINE_OPTIONS_INIT;
    options.plans = "somewhere";
    REFUSED(GSTK_ERROR_ENGINE, "expected tensorrt", gstk_engine_open(bundle, &options, &engine));
    std::swap(options.plans, options.cache);
    REFUSED(GSTK_ERROR_ENGINE, "expected openvino", gstk_engine_open(bundle, &options, &engine));
    options = GSTK_ENGINE_OPTIONS_INIT;
    options.struct_size = offsetof(gstk_engine_options, device);  // an older caller's, without these fields
    options.backend = "abacus";
    options.device = options.plans = "somewhere";
    REFUSED(GSTK_ERROR_ENGINE, "abacus", gstk_engine_open(bundle, &options, &engine));
    options = GSTK_ENGINE_OPTIONS_INIT;
    options.struct_size = 0;
    REFUSED(GSTK_ERROR_ARGUMENT, "struct_size", gstk_engine_open(bundle, &options, &engine));
    CHECK(engine == nullptr);
}

// What a backend of the processor does not take; one that this library was built without says so first.
void processor_only(const char* bundle, const std::string& name, const std::string& built) {
    gstk_engine* engine = nullptr;
    gstk_engine_options options = GSTK_ENGINE_OPTIONS_INIT;
    options.backend = name.c_str();
    options.device = "cuda:1";
    const bool is_there = built.find(name) != std::string::npos;
    REFUSED(GSTK_ERROR_BACKEND_MISSING, is_there ? "runs on the cpu" : "built without",
            gstk_engine_open(bundle, &options, &engine));
    if (!is_there) return;
    options.device = "cpu";
    options.plans = "somewhere";
    REFUSED(GSTK_ERROR_ENGINE, "plans", gstk_engine_open(bundle, &options, &engine));
    if (name != "openvino") {
        std::swap(options.plans, options.cache);
        REFUSED(GSTK_ERROR_ENGINE, "a cache", gstk_engine_open(bundle, &options, &engine));
    }
    CHECK(engine == nullptr);
}

void engine_calls(gstk_engine* engine) {
    gstk_engine_info info = GSTK_ENGINE_INFO_INIT;
    CHECK(gstk_engine_describe(engine, &info) == GSTK_OK);
    const std::string backends = "," + std::string(gstk_backends()) + ",";
    CHECK(backends.find("," + std::string(info.backend) + ",") != std::string::npos);
    CHECK(info.roi_multiple >= 1 && std::strlen(info.version) > 0);
    info.struct_size = 8;  // an older, shorter structure: nothing beyond it is written
    info.roi_minimum = 77;
    CHECK(gstk_engine_describe(engine, &info) == GSTK_OK && info.roi_minimum == 77 && info.struct_size == 8);
    REFUSED(GSTK_ERROR_ARGUMENT, "info", gstk_engine_describe(engine, nullptr));

    gstk_embedding* embedding = nullptr;
    const int64_t odd[3] = {17, 16, 16}, good[3] = {16, 16, 16};
    std::vector<float> image(16 * 16 * 17, 0.5f), logits(16 * 16 * 16);
    REFUSED(GSTK_ERROR_ENGINE, "multiples", gstk_engine_encode(engine, image.data(), odd, &embedding));
    REFUSED(GSTK_ERROR_ARGUMENT, "image", gstk_engine_encode(engine, nullptr, good, &embedding));
    REFUSED(GSTK_ERROR_ARGUMENT, "shape_zyx", gstk_engine_encode(engine, image.data(), nullptr, &embedding));
    const int64_t huge[3] = {int64_t{1} << 40, 16, 16};
    REFUSED(GSTK_ERROR_ENGINE, "voxels", gstk_engine_encode(engine, image.data(), huge, &embedding));
    image[5] = std::numeric_limits<float>::infinity();
    REFUSED(GSTK_ERROR_ENGINE, "finite", gstk_engine_encode(engine, image.data(), good, &embedding));
    image[5] = 0;
    CHECK(gstk_engine_encode(engine, image.data(), good, &embedding) == GSTK_OK);
    float point[3] = {8, 8, 8};
    std::int64_t label = 1;
    const auto decode = [&](std::size_t objects, std::size_t points, std::size_t count) {
        return gstk_engine_decode(engine, embedding, point, &label, objects, points, logits.data(), count);
    };
    REFUSED(GSTK_ERROR_ARGUMENT, "logits", decode(1, 1, 7));
    REFUSED(GSTK_ERROR_ENGINE, "one object", decode(0, 1, 0));
    label = 9;
    REFUSED(GSTK_ERROR_ENGINE, "label", decode(1, 1, logits.size()));
    label = -1;
    REFUSED(GSTK_ERROR_ENGINE, "padding", decode(1, 1, logits.size()));
    label = 1;
    point[1] = 16;
    REFUSED(GSTK_ERROR_ENGINE, "inside the region", decode(1, 1, logits.size()));
    point[1] = 8;
    CHECK(decode(1, 1, logits.size()) == GSTK_OK);
    CHECK(gstk_embedding_close(embedding) == GSTK_OK);
    REFUSED(GSTK_ERROR_CLOSED, "embedding", decode(1, 1, logits.size()));
    REFUSED(GSTK_ERROR_CLOSED, "embedding", gstk_embedding_close(embedding));
}

void volumes(const std::string& scratch) {
    std::vector<float> voxels(12 * 20 * 24, 1.0f);
    gstk_volume* volume = nullptr;
    const auto wrap = [&](const void* data, int dtype, const int64_t* shape, const double* spacing) {
        return gstk_volume_wrap(data, static_cast<gstk_dtype>(dtype), shape, spacing, nullptr, nullptr, &volume);
    };
    REFUSED(GSTK_ERROR_ARGUMENT, "voxels", wrap(nullptr, GSTK_FLOAT32, kShape, kSpacing));
    REFUSED(GSTK_ERROR_ARGUMENT, "dtype", wrap(voxels.data(), 15, kShape, kSpacing));
    REFUSED(GSTK_ERROR_ARGUMENT, "shape", wrap(voxels.data(), GSTK_FLOAT32, nullptr, kSpacing));
    const int64_t flat[3] = {0, 4, 4}, endless[3] = {1 << 30, 1 << 30, 1 << 30};
    REFUSED(GSTK_ERROR_GEOMETRY, "shape", wrap(voxels.data(), GSTK_FLOAT32, flat, kSpacing));
    REFUSED(GSTK_ERROR_GEOMETRY, "shape", wrap(voxels.data(), GSTK_FLOAT32, endless, kSpacing));
    const double still[3] = {1, 0, 1}, unknown[3] = {1, std::numeric_limits<double>::quiet_NaN(), 1};
    REFUSED(GSTK_ERROR_GEOMETRY, "spacing", wrap(voxels.data(), GSTK_FLOAT32, kShape, still));
    REFUSED(GSTK_ERROR_GEOMETRY, "spacing", wrap(voxels.data(), GSTK_FLOAT32, kShape, unknown));
    REFUSED(GSTK_ERROR_ARGUMENT, "path", gstk_volume_read(nullptr, &volume));
    REFUSED(GSTK_ERROR_CASE, "cannot read", gstk_volume_read((scratch + "/nothing.npz").c_str(), &volume));
    REFUSED(GSTK_ERROR_CASE, "cannot read", gstk_volume_read((scratch + "/nothing.nii").c_str(), &volume));
    REFUSED(GSTK_ERROR_CASE, "expected .npz", gstk_volume_read("scan.dcm", &volume));
    CHECK(volume == nullptr);
    CHECK(wrap(voxels.data(), GSTK_FLOAT32, kShape, kSpacing) == GSTK_OK);
    std::vector<std::uint16_t> mask(voxels.size(), 3);
    const auto write = [&](std::size_t count, const std::string& path) {
        return gstk_volume_write_mask(volume, mask.data(), count, path.c_str());
    };
    REFUSED(GSTK_ERROR_ARGUMENT, "voxels", write(5, scratch + "/mask.npz"));
    REFUSED(GSTK_ERROR_OUTPUT, "cannot write", write(mask.size(), scratch + "/no/folder/mask.npz"));
    REFUSED(GSTK_ERROR_OUTPUT, "cannot write", write(mask.size(), scratch + "/no/folder/mask.nii.gz"));
    REFUSED(GSTK_ERROR_OUTPUT, "expected .npz", write(mask.size(), scratch + "/mask.png"));
    CHECK(write(mask.size(), scratch + "/mask.nii.gz") == GSTK_OK);
    CHECK(gstk_volume_close(volume) == GSTK_OK);
    REFUSED(GSTK_ERROR_CLOSED, "volume", gstk_volume_close(volume));
}

void metadata(gstk_engine* engine) {
    std::vector<std::int16_t> voxels(12 * 20 * 24, -1000);
    for (std::size_t i = 0; i < voxels.size(); i += 5) voxels[i] = static_cast<std::int16_t>(i % 400);
    gstk_volume* volume = nullptr;
    CHECK(gstk_volume_wrap(voxels.data(), GSTK_INT16, kShape, kSpacing, nullptr, nullptr, &volume) == GSTK_OK);
    gstk_volume_metadata known = GSTK_VOLUME_METADATA_INIT;
    REFUSED(GSTK_ERROR_ARGUMENT, "metadata", gstk_volume_set_metadata(volume, nullptr));
    REFUSED(GSTK_ERROR_ARGUMENT, "info", gstk_volume_get_metadata(volume, nullptr));
    REFUSED(GSTK_ERROR_ARGUMENT, "null volume", gstk_volume_set_metadata(nullptr, &known));
    known.units = "Bq/ml";
    REFUSED(GSTK_ERROR_ARGUMENT, "units", gstk_volume_set_metadata(volume, &known));
    known.units = "HU";
    known.has_orientation = 1;
    std::fill_n(known.direction, 9, 0.0);
    REFUSED(GSTK_ERROR_GEOMETRY, "direction", gstk_volume_set_metadata(volume, &known));
    const double turned[9] = {0, 0, -2, 1, 0, 0, 0, 1, 0};  // columns need not have length 1
    std::copy_n(turned, 9, known.direction);
    known.origin_mm[1] = std::numeric_limits<double>::infinity();
    REFUSED(GSTK_ERROR_GEOMETRY, "origin", gstk_volume_set_metadata(volume, &known));
    known.origin_mm[1] = 7;
    known.modality = "CT";
    gstk_volume_metadata found = GSTK_VOLUME_METADATA_INIT;
    CHECK(gstk_volume_get_metadata(volume, &found) == GSTK_OK && !found.has_orientation && std::strlen(found.units) == 0);
    CHECK(gstk_volume_set_metadata(volume, &known) == GSTK_OK);
    CHECK(gstk_volume_get_metadata(volume, &found) == GSTK_OK && found.has_orientation && found.origin_mm[1] == 7);
    CHECK(std::string(found.units) == "HU" && std::string(found.modality) == "CT" && found.direction[2] == -1);

    gstk_session* session = nullptr;
    CHECK(gstk_session_open(engine, nullptr, &session) == GSTK_OK);
    gstk_image_report report = GSTK_IMAGE_REPORT_INIT;
    REFUSED(GSTK_ERROR_STATE, "set_image", gstk_session_get_image_report(session, &report));
    gstk_image_options options = GSTK_IMAGE_OPTIONS_INIT;
    options.intensity_window = "wide";
    REFUSED(GSTK_ERROR_CASE, "soft, lung", gstk_session_set_image_with(session, volume, &options));
    options.intensity_window = nullptr;
    options.assume_window = "soft";
    REFUSED(GSTK_ERROR_PROFILE, "takes no HU", gstk_session_set_image_with(session, volume, &options));
    options.struct_size = 1;
    REFUSED(GSTK_ERROR_ARGUMENT, "struct_size", gstk_session_set_image_with(session, volume, &options));
    CHECK(gstk_session_set_image(session, volume) == GSTK_OK);
    CHECK(gstk_session_get_image_report(session, &report) == GSTK_OK && std::strlen(report.warnings) == 0);
    CHECK(std::strstr(report.intensities, "soft W400 L40, for DICOM says CT") && std::string(report.profile) == "tiny");
    options = GSTK_IMAGE_OPTIONS_INIT;
    options.intensity_window = "1000,3000";
    CHECK(gstk_session_set_image_with(session, volume, &options) == GSTK_OK);
    CHECK(gstk_session_get_image_report(session, &report) == GSTK_OK && std::strstr(report.warnings, "the one value 0"));
    CHECK(gstk_session_close(session) == GSTK_OK && gstk_volume_close(volume) == GSTK_OK);
}

void time_limits(gstk_session* session) {
    for (const double seconds : {-1.0, std::numeric_limits<double>::quiet_NaN(),
                                 std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity()})
        REFUSED(GSTK_ERROR_ARGUMENT, "time limit", gstk_session_set_time_limit(session, seconds));
    REFUSED(GSTK_ERROR_ARGUMENT, "null session", gstk_session_set_time_limit(nullptr, 1));
    REFUSED(GSTK_ERROR_ARGUMENT, "null session", gstk_session_cancel(nullptr));
    CHECK(gstk_session_cancel(session) == GSTK_OK);  // of no call
    gstk_call_report report = GSTK_CALL_REPORT_INIT;
    REFUSED(GSTK_ERROR_ARGUMENT, "null session", gstk_session_get_report(nullptr, &report));
    REFUSED(GSTK_ERROR_ARGUMENT, "info", gstk_session_get_report(session, nullptr));
    CHECK(gstk_session_get_report(session, &report) == GSTK_OK);  // of no call
    CHECK(report.spent_s == 0 && report.limit_s == 0 && std::strlen(report.compromises) == 0 && !report.is_fallback);
    report.struct_size = 16;  // an older, shorter structure: nothing beyond it is written
    report.spent_s = 7;
    CHECK(gstk_session_get_report(session, &report) == GSTK_OK && report.spent_s == 7 && report.struct_size == 16);
    report.struct_size = 0;
    REFUSED(GSTK_ERROR_ARGUMENT, "struct_size", gstk_session_get_report(session, &report));
}

void sessions(gstk_engine* engine) {
    gstk_session* session = nullptr;
    gstk_session_options options = GSTK_SESSION_OPTIONS_INIT;
    options.cache_bytes = -5;
    options.struct_size = offsetof(gstk_session_options, cache_bytes);  // an older caller's, without that field
    CHECK(gstk_session_open(engine, &options, &session) == GSTK_OK);
    CHECK(gstk_session_close(session) == GSTK_OK);
    session = nullptr;
    options = GSTK_SESSION_OPTIONS_INIT;
    options.refine = 2;
    REFUSED(GSTK_ERROR_ARGUMENT, "refine", gstk_session_open(engine, &options, &session));
    options = GSTK_SESSION_OPTIONS_INIT;
    options.cache_bytes = -1;
    REFUSED(GSTK_ERROR_ARGUMENT, "cache_bytes", gstk_session_open(engine, &options, &session));
    options = GSTK_SESSION_OPTIONS_INIT;
    options.windows = 2;
    REFUSED(GSTK_ERROR_ARGUMENT, "windows", gstk_session_open(engine, &options, &session));
    options = GSTK_SESSION_OPTIONS_INIT;
    options.window_voxels = 5;
    REFUSED(GSTK_ERROR_ARGUMENT, "window_voxels", gstk_session_open(engine, &options, &session));
    REFUSED(GSTK_ERROR_ARGUMENT, "null engine", gstk_session_open(nullptr, nullptr, &session));
    // A handle of another type is none of this one.
    CHECK(gstk_session_open(engine, nullptr, &session) == GSTK_OK);
    REFUSED(GSTK_ERROR_CLOSED, "engine",
            gstk_engine_close(reinterpret_cast<gstk_engine*>(reinterpret_cast<void*>(session))));
    const double inside[3] = {6, 10, 12}, outside[3] = {12, 0, 0},
                 unknown[3] = {std::numeric_limits<double>::quiet_NaN(), 1, 1};
    REFUSED(GSTK_ERROR_STATE, "set_image", gstk_session_add_point(session, inside, 1, 1, nullptr));
    REFUSED(GSTK_ERROR_STATE, "set_image", gstk_session_undo(session, nullptr));
    time_limits(session);

    static int released = 0;
    std::vector<std::uint8_t> voxels(12 * 20 * 24, 0);
    for (std::size_t i = 0; i < voxels.size(); i += 3) voxels[i] = 200;
    gstk_volume* volume = nullptr;
    CHECK(gstk_volume_wrap(
              voxels.data(), GSTK_UINT8, kShape, kSpacing, [](void* count) { ++*static_cast<int*>(count); }, &released,
              &volume) == GSTK_OK);
    CHECK(gstk_session_set_image(session, volume) == GSTK_OK);
    CHECK(gstk_volume_close(volume) == GSTK_OK);
    CHECK(released == 0);  // the session still uses it
    REFUSED(GSTK_ERROR_CLOSED, "volume", gstk_session_set_image(session, volume));

    CHECK(gstk_session_add_point(session, inside, 1, 1, nullptr) == GSTK_OK);
    std::vector<std::uint16_t> before(voxels.size()), after(voxels.size());
    CHECK(gstk_session_read_mask(session, nullptr, before.data(), before.size()) == GSTK_OK);
    REFUSED(GSTK_ERROR_PROMPT, "inside the image", gstk_session_add_point(session, outside, 1, 1, nullptr));
    REFUSED(GSTK_ERROR_PROMPT, "inside the image", gstk_session_add_point(session, unknown, 1, 1, nullptr));
    REFUSED(GSTK_ERROR_ARGUMENT, "zyx", gstk_session_add_point(session, nullptr, 1, 1, nullptr));
    REFUSED(GSTK_ERROR_PROMPT, "object id", gstk_session_add_point(session, inside, 1, 0, nullptr));
    REFUSED(GSTK_ERROR_PROMPT, "object id", gstk_session_add_point(session, inside, 1, 65536, nullptr));
    gstk_box box = {{3, 3, 3}, {2, 9, 9}, 3};
    REFUSED(GSTK_ERROR_PROMPT, "min <= max", gstk_session_add_box(session, &box, 1, nullptr));
    box.last_zyx[0] = 90;
    REFUSED(GSTK_ERROR_PROMPT, "inside the image", gstk_session_add_box(session, &box, 1, nullptr));
    REFUSED(GSTK_ERROR_ARGUMENT, "box", gstk_session_add_box(session, nullptr, 1, nullptr));
    REFUSED(GSTK_ERROR_ARGUMENT, "points", gstk_session_set_prompts(session, nullptr, nullptr, 2, 1, nullptr));
    REFUSED(GSTK_ERROR_ARGUMENT, "buffer", gstk_session_read_mask(session, nullptr, after.data(), 3));
    REFUSED(GSTK_ERROR_ARGUMENT, "mask", gstk_session_read_mask(session, nullptr, nullptr, after.size()));
    const gstk_region beyond = {{0, 0, 0}, {13, 20, 24}};
    REFUSED(GSTK_ERROR_ARGUMENT, "region", gstk_session_read_mask(session, &beyond, after.data(), after.size()));
    gstk_window window;
    REFUSED(GSTK_ERROR_STATE, "without a window", gstk_session_get_window(session, 2, &window));
    CHECK(gstk_session_read_mask(session, nullptr, after.data(), after.size()) == GSTK_OK);
    CHECK(before == after);
    CHECK(gstk_session_undo(session, nullptr) == GSTK_OK);
    REFUSED(GSTK_ERROR_PROMPT, "undo", gstk_session_undo(session, nullptr));
    CHECK(gstk_session_close(session) == GSTK_OK);
    CHECK(released == 1);
    REFUSED(GSTK_ERROR_CLOSED, "session", gstk_session_close(session));
    REFUSED(GSTK_ERROR_CLOSED, "session", gstk_session_add_point(session, inside, 1, 1, nullptr));
    REFUSED(GSTK_ERROR_CLOSED, "session", gstk_session_set_time_limit(session, 1));
    REFUSED(GSTK_ERROR_CLOSED, "session", gstk_session_cancel(session));
    CHECK(gstk_session_close(nullptr) == GSTK_OK);
}

// Two threads click in one session while a third closes a volume handle: each call is whole.
void threads(gstk_engine* engine) {
    gstk_session* session = nullptr;
    gstk_volume* volume = nullptr;
    std::vector<std::uint8_t> voxels(12 * 20 * 24, 0);
    for (std::size_t i = 0; i < voxels.size() / 2; ++i) voxels[i] = 200;
    CHECK(gstk_session_open(engine, nullptr, &session) == GSTK_OK);
    CHECK(gstk_volume_wrap(voxels.data(), GSTK_UINT8, kShape, kSpacing, nullptr, nullptr, &volume) == GSTK_OK);
    CHECK(gstk_session_set_image(session, volume) == GSTK_OK);
    std::vector<std::thread> users;
    for (std::uint32_t object_id = 1; object_id <= 2; ++object_id)
        users.emplace_back([session, object_id] {
            for (int i = 0; i < 3; ++i) {
                const double zyx[3] = {2.0 + i, 5.0 + object_id, 6};
                CHECK(gstk_session_add_point(session, zyx, 1, object_id, nullptr) == GSTK_OK);
            }
        });
    users.emplace_back([volume] { CHECK(gstk_volume_close(volume) == GSTK_OK); });
    for (auto& user : users) user.join();
    for (int i = 0; i < 6; ++i) CHECK(gstk_session_undo(session, nullptr) == GSTK_OK);
    REFUSED(GSTK_ERROR_PROMPT, "undo", gstk_session_undo(session, nullptr));
    CHECK(gstk_session_close(session) == GSTK_OK);
}

}  // namespace

int main(int count, char** arguments) {
    if (count != 3) return 2;
    CHECK(std::strlen(gstk_version()) > 0);
    const std::string backends = gstk_backends();
    if (backends.empty()) {  // a build without any
        gstk_engine* none = nullptr;
        REFUSED(GSTK_ERROR_BACKEND_MISSING, "GSTK_OPENVINO=ON", gstk_engine_open(arguments[1], nullptr, &none));
        gstk_engine_options options = GSTK_ENGINE_OPTIONS_INIT;
        options.backend = "openvino";
        REFUSED(GSTK_ERROR_BACKEND_MISSING, "openvino", gstk_engine_open(arguments[1], &options, &none));
        volumes(arguments[2]);
        return failures() ? 1 : 0;
    }
    engines(arguments[1], arguments[2]);
    for (const char* name : {"openvino", "onnxruntime"}) processor_only(arguments[1], name, backends);
    gstk_engine* engine = nullptr;
    CHECK(gstk_engine_open(arguments[1], nullptr, &engine) == GSTK_OK);
    engine_calls(engine);
    volumes(arguments[2]);
    metadata(engine);
    sessions(engine);
    threads(engine);
    CHECK(gstk_engine_close(engine) == GSTK_OK);
    REFUSED(GSTK_ERROR_CLOSED, "engine", gstk_engine_close(engine));
    return failures() ? 1 : 0;
}
