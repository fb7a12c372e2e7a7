// The C ABI over sessions.
#include "capi.hpp"

namespace gstk::impl {
namespace {

Box as_box(const gstk_box& box) {
    return {triple(box.first_zyx, "first_zyx"), triple(box.last_zyx, "last_zyx"), box.z_mid};
}

void put_region(const Region& region, gstk_region* target) {
    if (!target) return;
    std::copy(region.start.begin(), region.start.end(), target->start);
    std::copy(region.stop.begin(), region.stop.end(), target->stop);
}

}  // namespace
}  // namespace gstk::impl

using namespace gstk::impl;

gstk_status gstk_session_open(gstk_engine* engine, const gstk_session_options* options, gstk_session** session) {
    return guarded([&] {
        auto found = engines().get(engine);
        const auto given = sized<gstk_session_options>(options, GSTK_SESSION_OPTIONS_INIT);
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
        if (given.windows < 0 || given.windows > 1)
            throw error(GSTK_ERROR_ARGUMENT, "got windows ", given.windows, ", expected 0 or 1");
        wanted.policy.adapts = given.windows == 0;
        wanted.refine = given.refine < 0 ? found->manifest().refine : given.refine == 1;
        if (given.cache_bytes) wanted.cache_bytes = static_cast<std::size_t>(given.cache_bytes);
        *session = sessions().add(std::make_shared<Session>(found, wanted));
    });
}

gstk_status gstk_session_set_image(gstk_session* session, gstk_volume* volume) {
    return gstk_session_set_image_with(session, volume, nullptr);
}

gstk_status gstk_session_set_image_with(gstk_session* session, gstk_volume* volume, const gstk_image_options* options) {
    return guarded([&] {
        const auto found = sessions().get(session);
        const auto given = sized<gstk_image_options>(options, GSTK_IMAGE_OPTIONS_INIT);
        ImageOptions wanted;
        if (given.intensity_window) wanted.intensity_window = given.intensity_window;
        if (given.assume_window) wanted.assume_window = given.assume_window;
        found->set_image(volumes().get(volume), wanted);
    });
}

gstk_status gstk_session_get_image_report(gstk_session* session, gstk_image_report* report) {
    return guarded([&] {
        const ImageReport found = sessions().get(session)->image_report();
        gstk_image_report value = GSTK_IMAGE_REPORT_INIT;
        value.profile = found.profile;
        value.intensities = found.intensities;
        value.warnings = found.warnings;
        fill(report, value);
    });
}

gstk_status gstk_session_add_point(gstk_session* session, const double zyx[3], int foreground, uint32_t object_id,
                                   gstk_region* changed) {
    return guarded([&] {
        put_region(sessions().get(session)->add_point(triple(zyx, "zyx"), foreground != 0, object_id), changed);
    });
}

gstk_status gstk_session_add_novel_point(gstk_session* session, const double zyx[3], int foreground, uint32_t object_id,
                                         gstk_region* changed) {
    return guarded([&] {
        put_region(sessions().get(session)->add_point(triple(zyx, "zyx"), foreground != 0, object_id, true), changed);
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
        for (std::size_t i = 0; i < count; ++i) {
            prompts.points.push_back({triple(points[i].zyx, "zyx"), points[i].foreground != 0});
            prompts.is_novel = prompts.is_novel || points[i].novel != 0;
        }
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
