// The C ABI over the C++ core: engines, and what went wrong. Volumes and sessions are in files of their own.
#include "capi.hpp"

namespace gstk::impl {

// Never destroyed: a host may close its handles as late as in its own static destructors.
Handles<gstk_engine, Engine>& engines() {
    static auto& all = *new Handles<gstk_engine, Engine>("engine");
    return all;
}
Handles<gstk_embedding, const Embedding>& embeddings() {
    static auto& all = *new Handles<gstk_embedding, const Embedding>("embedding");
    return all;
}
Handles<gstk_volume, const Volume>& volumes() {
    static auto& all = *new Handles<gstk_volume, const Volume>("volume");
    return all;
}
Handles<gstk_session, Session>& sessions() {
    static auto& all = *new Handles<gstk_session, Session>("session");
    return all;
}

namespace {

std::string& last_error() {
    thread_local std::string text;
    return text;
}

std::string joined_backends() {
    std::string names;
    for (const auto& name : backends()) names += (names.empty() ? "" : ",") + name;
    return names;
}

}  // namespace

gstk_status failed(gstk_status code, const char* message) noexcept {
    try {
        last_error() = printable(message, 1000);
    } catch (...) {
        last_error().clear();  // no memory left for the text; the code says enough
    }
    return code;
}

}  // namespace gstk::impl

using namespace gstk::impl;

const char* gstk_version(void) {
    return GSTK_VERSION;
}

const char* gstk_backends(void) {
    static const auto& names = *new std::string(joined_backends());
    return names.c_str();
}

const char* gstk_last_error(void) {
    return last_error().c_str();
}

gstk_status gstk_engine_open(const char* bundle_path, const gstk_engine_options* options, gstk_engine** engine) {
    return guarded([&] {
        const auto given = sized<gstk_engine_options>(options, GSTK_ENGINE_OPTIONS_INIT);
        EngineOptions wanted;
        wanted.backend = &required(given.backend, "backend");
        wanted.precision = &required(given.precision, "precision");
        wanted.threads = given.threads;
        wanted.device = &required(given.device, "device");
        if (given.plans) wanted.plans = std::filesystem::u8path(given.plans);
        if (given.cache) wanted.cache = std::filesystem::u8path(given.cache);
        required(engine, "engine");
        *engine = engines().add(open_engine(std::filesystem::u8path(&required(bundle_path, "bundle_path")), wanted));
    });
}

gstk_status gstk_engine_describe(gstk_engine* engine, gstk_engine_info* info) {
    return guarded([&] {
        const auto found = engines().get(engine);
        const Manifest& manifest = found->manifest();
        gstk_engine_info value = GSTK_ENGINE_INFO_INIT;
        value.roi_multiple = static_cast<std::uint32_t>(manifest.roi.multiple);
        value.roi_minimum = static_cast<std::uint32_t>(manifest.roi.minimum);
        std::copy(manifest.roi.default_shape.begin(), manifest.roi.default_shape.end(), value.roi_default);
        value.backend = found->backend().c_str();
        value.version = found->version().c_str();
        value.device = found->device().c_str();
        value.precision = found->precision().c_str();
        value.model = manifest.name.c_str();
        fill(info, value);
    });
}

gstk_status gstk_engine_encode(gstk_engine* engine, const float* image, const int64_t shape_zyx[3],
                               gstk_embedding** embedding) {
    return guarded([&] {
        const auto found = engines().get(engine);
        required(image, "image");
        required(embedding, "embedding");
        *embedding = embeddings().add(found->encode(image, triple(shape_zyx, "shape_zyx")));
    });
}

gstk_status gstk_engine_decode(gstk_engine* engine, gstk_embedding* embedding, const float* coords,
                               const int64_t* labels, size_t objects, size_t points, float* logits,
                               size_t logits_count) {
    return guarded([&] {
        const auto found = engines().get(engine);
        const auto encoded = embeddings().get(embedding);
        required(coords, "coords");
        required(labels, "labels");
        required(logits, "logits");
        constexpr std::size_t kMost = 1u << 20;
        if (objects > kMost || points > kMost)
            throw error(GSTK_ERROR_ARGUMENT, "got ", objects, " objects of ", points, " points, expected up to ",
                        kMost);
        const auto expected = objects * static_cast<std::size_t>(count_of(encoded->roi_shape));
        if (logits_count != expected)
            throw error(GSTK_ERROR_ARGUMENT, "got a buffer of ", logits_count, " logits, expected ", expected, " for ",
                        objects, " objects in a region of ", text(encoded->roi_shape));
        found->decode(*encoded, coords, labels, static_cast<std::int64_t>(objects), static_cast<std::int64_t>(points),
                      logits);
    });
}

gstk_status gstk_embedding_close(gstk_embedding* embedding) {
    return guarded([&] { embeddings().close(embedding); });
}

gstk_status gstk_engine_close(gstk_engine* engine) {
    return guarded([&] { engines().close(engine); });
}
