// The C ABI over the C++ core: checks pointers, finds handles, and lets no exception out.
#include <algorithm>
#include <cstring>
#include <new>

#include "gstk/gstk.h"
#include "handles.hpp"
#include "session.hpp"
#include "volume_files.hpp"

namespace gstk::impl {
namespace {

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

std::string& last_error() {
    thread_local std::string text;
    return text;
}

gstk_status failed(gstk_status code, const char* message) noexcept {
    try {
        last_error() = printable(message, 1000);
    } catch (...) {
        last_error().clear();  // no memory left for the text; the code says enough
    }
    return code;
}

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

Box as_box(const gstk_box& box) {
    return {triple(box.first_zyx, "first_zyx"), triple(box.last_zyx, "last_zyx"), box.z_mid};
}

void put_region(const Region& region, gstk_region* target) {
    if (!target) return;
    std::copy(region.start.begin(), region.start.end(), target->start);
    std::copy(region.stop.begin(), region.stop.end(), target->stop);
}

std::string joined_backends() {
    std::string names;
    for (const auto& name : backends()) names += (names.empty() ? "" : ",") + name;
    return names;
}

}  // namespace
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

gstk_status gstk_volume_wrap(const void* voxels, gstk_dtype dtype, const int64_t shape_zyx[3],
                             const double spacing_mm_zyx[3], void (*release)(void* user_data), void* user_data,
                             gstk_volume** volume) {
    return guarded([&] {
        required(static_cast<const char*>(voxels), "voxels");
        required(volume, "volume");
        size_of(dtype);  // throws for one that is unknown
        const Geometry geometry(triple(shape_zyx, "shape_zyx"), triple(spacing_mm_zyx, "spacing_mm_zyx"));
        const auto let_go = std::make_shared<bool>(false);
        std::shared_ptr<const void> owner(voxels, [release, user_data, let_go](const void*) {
            if (release && *let_go) release(user_data);
        });
        *volume = volumes().add(std::make_shared<const Volume>(Volume{geometry, dtype, std::move(owner), ""}));
        *let_go = true;  // from here on the voxels are gstk's to release
    });
}

gstk_status gstk_volume_read(const char* path, gstk_volume** volume) {
    return guarded([&] {
        required(volume, "volume");
        *volume = volumes().add(std::make_shared<const Volume>(read_volume(&required(path, "path"))));
    });
}

gstk_status gstk_volume_describe(gstk_volume* volume, gstk_volume_info* info) {
    return guarded([&] {
        const auto found = volumes().get(volume);
        gstk_volume_info value = GSTK_VOLUME_INFO_INIT;
        value.dtype = found->dtype;
        const auto& geometry = found->geometry;
        std::copy(geometry.shape().begin(), geometry.shape().end(), value.shape_zyx);
        std::copy(geometry.spacing_mm().begin(), geometry.spacing_mm().end(), value.spacing_mm_zyx);
        value.voxels = found->voxels.get();
        fill(info, value);
    });
}

gstk_status gstk_volume_write_mask(gstk_volume* volume, const uint16_t* mask, size_t count, const char* path) {
    return guarded([&] {
        const auto found = volumes().get(volume);
        required(mask, "mask");
        if (count != static_cast<std::size_t>(found->count()))
            throw error(GSTK_ERROR_ARGUMENT, "got a mask of ", count, " voxels, expected ", found->count());
        write_mask(&required(path, "path"), *found, mask);
    });
}

gstk_status gstk_volume_close(gstk_volume* volume) {
    return guarded([&] { volumes().close(volume); });
}

gstk_status gstk_session_open(gstk_engine* engine, const gstk_session_options* options, gstk_session** session) {
    return guarded([&] {
        auto found = engines().get(engine);
        const auto given = sized<gstk_session_options>(options, GSTK_SESSION_OPTIONS_INIT);
        found->manifest().profile.require_supported();
        const RoiRules& roi = found->manifest().roi;
        const std::int64_t least = roi.minimum * roi.minimum * roi.minimum;
        const std::int64_t voxels = given.window_voxels ? given.window_voxels : count_of(roi.default_shape);
        if (given.window_voxels && (voxels < least || voxels > roi.max_voxels))
            throw error(GSTK_ERROR_ARGUMENT, "got window_voxels ", voxels, ", expected ", least, " to ", roi.max_voxels,
                        ", or 0");
        if (given.cache_bytes < 0)
            throw error(GSTK_ERROR_ARGUMENT, "got cache_bytes ", given.cache_bytes, ", expected 0 or more");
        required(session, "session");
        if (given.refine < -1 || given.refine > 1)
            throw error(GSTK_ERROR_ARGUMENT, "got refine ", given.refine, ", expected -1, 0 or 1");
        SessionOptions wanted{WindowPolicy{voxels, roi.multiple, roi.minimum}};
        wanted.refine = given.refine < 0 ? found->manifest().refine : given.refine == 1;
        if (given.cache_bytes) wanted.cache_bytes = static_cast<std::size_t>(given.cache_bytes);
        *session = sessions().add(std::make_shared<Session>(found, wanted));
    });
}

gstk_status gstk_session_set_image(gstk_session* session, gstk_volume* volume) {
    return guarded([&] { sessions().get(session)->set_image(volumes().get(volume)); });
}

gstk_status gstk_session_add_point(gstk_session* session, const double zyx[3], int foreground, uint32_t object_id,
                                   gstk_region* changed) {
    return guarded([&] {
        put_region(sessions().get(session)->add_point(triple(zyx, "zyx"), foreground != 0, object_id), changed);
    });
}

gstk_status gstk_session_add_box(gstk_session* session, const gstk_box* box, uint32_t object_id, gstk_region* changed) {
    return guarded(
        [&] { put_region(sessions().get(session)->add_box(as_box(required(box, "box")), object_id), changed); });
}

gstk_status gstk_session_set_prompts(gstk_session* session, const gstk_box* box, const gstk_point* points, size_t count,
                                     uint32_t object_id, gstk_region* changed) {
    return guarded([&] {
        const auto found = sessions().get(session);
        ObjectPrompts prompts;
        if (box) prompts.box = as_box(*box);
        if (count) required(points, "points");
        for (std::size_t i = 0; i < count; ++i)
            prompts.points.push_back({triple(points[i].zyx, "zyx"), points[i].foreground != 0});
        put_region(found->set_prompts(prompts, object_id), changed);
    });
}

gstk_status gstk_session_undo(gstk_session* session, gstk_region* changed) {
    return guarded([&] { put_region(sessions().get(session)->undo(), changed); });
}

gstk_status gstk_session_redo(gstk_session* session, gstk_region* changed) {
    return guarded([&] { put_region(sessions().get(session)->redo(), changed); });
}

gstk_status gstk_session_reset(gstk_session* session, uint32_t object_id) {
    return guarded([&] { sessions().get(session)->reset(object_id); });
}

gstk_status gstk_session_read_mask(gstk_session* session, const gstk_region* region, uint16_t* mask, size_t count) {
    return guarded([&] {
        const auto found = sessions().get(session);
        if (count) required(mask, "mask");
        Region part;
        if (region) part = {triple(region->start, "start"), triple(region->stop, "stop")};
        found->read_mask(region ? &part : nullptr, mask, count);
    });
}

gstk_status gstk_session_get_window(gstk_session* session, uint32_t object_id, gstk_window* window) {
    return guarded([&] {
        const auto found = sessions().get(session)->window(object_id);
        gstk_window& target = required(window, "window");
        if (!found)
            throw error(GSTK_ERROR_STATE, "got object ", object_id, " without a window, expected a click on it first");
        std::copy(found->start.begin(), found->start.end(), target.start);
        std::copy(found->step.begin(), found->step.end(), target.step);
        std::copy(found->shape.begin(), found->shape.end(), target.shape);
    });
}

gstk_status gstk_session_get_counts(gstk_session* session, int64_t* encodes, int64_t* decodes) {
    return guarded([&] {
        const auto counts = sessions().get(session)->counts();
        if (encodes) *encodes = counts.encodes;
        if (decodes) *decodes = counts.decodes;
    });
}

gstk_status gstk_session_set_time_limit(gstk_session* session, double seconds) {
    return guarded([&] { sessions().get(session)->set_time_limit(seconds); });
}

gstk_status gstk_session_cancel(gstk_session* session) {
    return guarded([&] { sessions().get(session)->cancel(); });
}

gstk_status gstk_session_get_report(gstk_session* session, gstk_call_report* report) {
    return guarded([&] {
        const CallReport found = sessions().get(session)->report();
        gstk_call_report value = GSTK_CALL_REPORT_INIT;
        value.is_fallback = found.is_fallback;
        value.limit_s = found.limit_s;
        value.spent_s = found.spent_s;
        value.encodes = found.encodes;
        value.decodes = found.decodes;
        value.compromises = found.compromises->c_str();  // which the session keeps
        fill(report, value);
    });
}

gstk_status gstk_session_close(gstk_session* session) {
    return guarded([&] { sessions().close(session); });
}
