// gstk for C++17: RAII over the C ABI of gstk/gstk.h, header-only, errors as exceptions.
//
//     gstk::Engine engine("bundle");
//     gstk::Session session(engine);
//     gstk::Volume volume = gstk::Volume::read("scan.nii.gz");
//     session.set_image(volume);
//     session.add_point({40, 88, 120});
//     volume.write_mask(session.mask(), "mask.nii.gz");
//
// Axes, threads and ownership are those of gstk/gstk.h. Objects can be moved, not copied.
#ifndef GSTK_GSTK_HPP
#define GSTK_GSTK_HPP

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "gstk.h"

namespace gstk {

using Index = std::array<std::int64_t, 3>;  // (z, y, x)
using Triple = std::array<double, 3>;       // (z, y, x)
using Region = gstk_region;
using Window = gstk_window;

// What a call of the C ABI returned, and its message.
class Error : public std::runtime_error {
  public:
    Error(gstk_status code, const std::string& message) : std::runtime_error(message), code_(code) {}
    gstk_status code() const { return code_; }

  private:
    gstk_status code_;
};

inline void check(gstk_status status) {
    if (status != GSTK_OK) throw Error(status, gstk_last_error());
}

inline std::int64_t voxel_count(const Region& region) {
    std::int64_t count = 1;
    for (int a = 0; a < 3; ++a) count *= region.stop[a] - region.start[a];
    return count;
}

// A handle that closes itself.
template <class Handle, gstk_status (*close)(Handle*)>
class Owned {
  public:
    explicit Owned(Handle* handle = nullptr) : handle_(handle) {}
    Owned(Owned&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
    Owned& operator=(Owned&& other) noexcept {
        std::swap(handle_, other.handle_);
        return *this;
    }
    ~Owned() { (void)close(handle_); }
    Handle* get() const { return handle_; }
    Handle** put() { return &handle_; }

  private:
    Handle* handle_;
};

// The C++ type of voxels as the C ABI names it.
template <class T>
struct dtype_of;
template <>
struct dtype_of<std::uint8_t> : std::integral_constant<gstk_dtype, GSTK_UINT8> {};
template <>
struct dtype_of<std::int8_t> : std::integral_constant<gstk_dtype, GSTK_INT8> {};
template <>
struct dtype_of<std::uint16_t> : std::integral_constant<gstk_dtype, GSTK_UINT16> {};
template <>
struct dtype_of<std::int16_t> : std::integral_constant<gstk_dtype, GSTK_INT16> {};
template <>
struct dtype_of<std::uint32_t> : std::integral_constant<gstk_dtype, GSTK_UINT32> {};
template <>
struct dtype_of<std::int32_t> : std::integral_constant<gstk_dtype, GSTK_INT32> {};
template <>
struct dtype_of<std::uint64_t> : std::integral_constant<gstk_dtype, GSTK_UINT64> {};
template <>
struct dtype_of<std::int64_t> : std::integral_constant<gstk_dtype, GSTK_INT64> {};
template <>
struct dtype_of<float> : std::integral_constant<gstk_dtype, GSTK_FLOAT32> {};
template <>
struct dtype_of<double> : std::integral_constant<gstk_dtype, GSTK_FLOAT64> {};

// What a volume's voxels mean and how they lie in the patient; see gstk_volume_metadata.
struct Metadata {
    std::string units, modality;  // "" where not known
    bool has_orientation = false;
    std::array<double, 9> direction{1, 0, 0, 0, 1, 0, 0, 0, 1};  // row by row, columns are the axes x, y and z in LPS
    Triple origin_mm{};                                          // (x, y, z), LPS
};

// The sentences of a text that has one on each line.
inline std::vector<std::string> split_lines(const std::string& text) {
    std::vector<std::string> lines;
    for (std::size_t at = 0; at < text.size(); at = std::min(text.find('\n', at), text.size()) + 1)
        lines.push_back(text.substr(at, text.find('\n', at) - at));
    return lines;
}

// Voxels, their spacing, and what they mean.
class Volume {
  public:
    // The caller's memory, without a copy; it must not change or go while the volume or a session uses it.
    template <class T>
    static Volume wrap(const T* voxels, const Index& shape, const Triple& spacing_mm) {
        Volume volume;
        check(gstk_volume_wrap(voxels, dtype_of<T>::value, shape.data(), spacing_mm.data(), nullptr, nullptr,
                               volume.handle_.put()));
        return volume;
    }

    // Takes the voxels over, and frees them when no session uses them any more.
    template <class T>
    static Volume take(std::vector<T> voxels, const Index& shape, const Triple& spacing_mm) {
        if (static_cast<double>(voxels.size()) !=
            static_cast<double>(shape[0]) * static_cast<double>(shape[1]) * static_cast<double>(shape[2]))
            throw Error(GSTK_ERROR_ARGUMENT, "got a vector of another length than the shape, expected all its voxels");
        auto owned = std::make_unique<std::vector<T>>(std::move(voxels));
        const auto release = [](void* user_data) { delete static_cast<std::vector<T>*>(user_data); };
        Volume volume;
        check(gstk_volume_wrap(owned->data(), dtype_of<T>::value, shape.data(), spacing_mm.data(), release, owned.get(),
                               volume.handle_.put()));
        (void)owned.release();
        return volume;
    }

    // Reads .npz, .nii or .nii.gz.
    static Volume read(const std::string& path) {
        Volume volume;
        check(gstk_volume_read(path.c_str(), volume.handle_.put()));
        return volume;
    }

    Index shape() const {
        const auto& sides = describe().shape_zyx;
        return {sides[0], sides[1], sides[2]};
    }
    Triple spacing_mm() const {
        const auto info = describe();
        return {info.spacing_mm_zyx[0], info.spacing_mm_zyx[1], info.spacing_mm_zyx[2]};
    }
    gstk_volume_info describe() const {
        gstk_volume_info info = GSTK_VOLUME_INFO_INIT;
        check(gstk_volume_describe(handle_.get(), &info));
        return info;
    }

    Metadata metadata() const {
        gstk_volume_metadata found = GSTK_VOLUME_METADATA_INIT;
        check(gstk_volume_get_metadata(handle_.get(), &found));
        Metadata result{found.units, found.modality, found.has_orientation != 0, {}, {}};
        std::copy_n(found.direction, 9, result.direction.begin());
        std::copy_n(found.origin_mm, 3, result.origin_mm.begin());
        return result;
    }
    // States what is known better, such as that values are HU; before the volume is given to a session.
    void set_metadata(const Metadata& metadata) {
        gstk_volume_metadata given = GSTK_VOLUME_METADATA_INIT;
        given.units = metadata.units.c_str();
        given.modality = metadata.modality.c_str();
        given.has_orientation = metadata.has_orientation;
        std::copy_n(metadata.direction.begin(), 9, given.direction);
        std::copy_n(metadata.origin_mm.begin(), 3, given.origin_mm);
        check(gstk_volume_set_metadata(handle_.get(), &given));
    }

    // Writes a mask of this shape to .npz, .nii or .nii.gz.
    void write_mask(const std::vector<std::uint16_t>& mask, const std::string& path) const {
        check(gstk_volume_write_mask(handle_.get(), mask.data(), mask.size(), path.c_str()));
    }

    gstk_volume* get() const { return handle_.get(); }

  private:
    Volume() = default;

    Owned<gstk_volume, gstk_volume_close> handle_;
};

// How an engine is opened; see gstk_engine_options.
struct EngineOptions {
    std::string backend = "auto", precision = "auto", device = "auto";
    std::string plans, cache;  // "" is NULL there
    int threads = 0;
};

// A bundle opened by a backend.
class Engine {
  public:
    Engine(const std::string& bundle_path, const EngineOptions& options) {
        gstk_engine_options given = GSTK_ENGINE_OPTIONS_INIT;
        given.threads = options.threads;
        given.backend = options.backend.c_str();
        given.precision = options.precision.c_str();
        given.device = options.device.c_str();
        given.plans = options.plans.empty() ? nullptr : options.plans.c_str();
        given.cache = options.cache.empty() ? nullptr : options.cache.c_str();
        check(gstk_engine_open(bundle_path.c_str(), &given, handle_.put()));
    }

    // threads: 0 leaves it to the backend.
    explicit Engine(const std::string& bundle_path, const std::string& backend = "auto",
                    const std::string& precision = "auto", int threads = 0)
        : Engine(bundle_path, EngineOptions{backend, precision, "auto", "", "", threads}) {}

    // Its texts are valid while the engine is.
    gstk_engine_info describe() const {
        gstk_engine_info info = GSTK_ENGINE_INFO_INIT;
        check(gstk_engine_describe(handle_.get(), &info));
        return info;
    }

    gstk_engine* get() const { return handle_.get(); }

  private:
    Owned<gstk_engine, gstk_engine_close> handle_;
};

struct Point {
    Index zyx;
    bool foreground = true;
    bool novel = false;  // at any of an object's points: it is of no class that the network was trained on
};

// First and last voxel, both inside; z_mid is the slice on which the box was drawn, the middle one if not said.
struct Box {
    Index first;
    Index last;
    std::optional<std::int64_t> z_mid;

    gstk_box c_box() const {
        gstk_box box{};
        for (std::size_t a = 0; a < 3; ++a) {
            box.first_zyx[a] = first[a];
            box.last_zyx[a] = last[a];
        }
        const std::int64_t sum = first[0] + last[0];
        box.z_mid = z_mid.value_or(sum >= 0 ? sum / 2 : (sum - 1) / 2);
        return box;
    }
};

// What the latest call that made a mask took, and what it skipped to stay in time; see gstk_call_report.
struct CallReport {
    double limit_s = 0, spent_s = 0;
    std::int64_t encodes = 0, decodes = 0;
    bool is_fallback = false;
    std::vector<std::string> compromises;
};

// How an image's intensities are to be read; see gstk_image_options. "" is NULL there.
struct ImageOptions {
    std::string intensity_window, assume_window;
};

// How an image was prepared for the network; see gstk_image_report.
struct ImageReport {
    std::string profile, intensities;
    std::vector<std::string> warnings;
};

// How a session is opened; see gstk_session_options.
struct SessionOptions {
    std::optional<bool> refine;                         // as the bundle says where it is not given
    std::int64_t window_voxels = 0, cache_bytes = 0;  // 0 is the default of each
    bool adapts = true;                               // false keeps to the training's window around the click
};

// An image, prompts on its objects, and their masks. Every prompt returns the region outside which the mask did not
// change.
class Session {
  public:
    explicit Session(const Engine& engine, const SessionOptions& options = {}) {
        gstk_session_options given = GSTK_SESSION_OPTIONS_INIT;
        if (options.refine) given.refine = *options.refine ? 1 : 0;
        given.window_voxels = options.window_voxels;
        given.cache_bytes = options.cache_bytes;
        given.windows = options.adapts ? 0 : 1;
        check(gstk_session_open(engine.get(), &given, handle_.put()));
    }

    void set_image(const Volume& volume, const ImageOptions& options = {}) {
        gstk_image_options given = GSTK_IMAGE_OPTIONS_INIT;
        if (!options.intensity_window.empty()) given.intensity_window = options.intensity_window.c_str();
        if (!options.assume_window.empty()) given.assume_window = options.assume_window.c_str();
        check(gstk_session_set_image_with(handle_.get(), volume.get(), &given));
        const Index shape = volume.shape();
        whole_ = Region{{0, 0, 0}, {shape[0], shape[1], shape[2]}};
    }

    ImageReport image_report() const {
        gstk_image_report found = GSTK_IMAGE_REPORT_INIT;
        check(gstk_session_get_image_report(handle_.get(), &found));
        return {found.profile, found.intensities, split_lines(found.warnings)};
    }

    Region add_point(const Triple& zyx, bool foreground = true, std::uint32_t object_id = 1) {
        Region changed{};
        check(gstk_session_add_point(handle_.get(), zyx.data(), foreground, object_id, &changed));
        return changed;
    }

    // A click on an object that is of no class which the network was trained on; it stays so until it is reset.
    Region add_novel_point(const Triple& zyx, bool foreground = true, std::uint32_t object_id = 1) {
        Region changed{};
        check(gstk_session_add_novel_point(handle_.get(), zyx.data(), foreground, object_id, &changed));
        return changed;
    }

    Region add_box(const Box& box, std::uint32_t object_id = 1) {
        Region changed{};
        const gstk_box given = box.c_box();
        check(gstk_session_add_box(handle_.get(), &given, object_id, &changed));
        return changed;
    }

    // Replaces all prompts of an object.
    Region set_prompts(const std::vector<Point>& points, const std::optional<Box>& box = std::nullopt,
                       std::uint32_t object_id = 1) {
        std::vector<gstk_point> given;
        for (const auto& p : points) given.push_back({{p.zyx[0], p.zyx[1], p.zyx[2]}, p.foreground, p.novel});
        const gstk_box c_box = box ? box->c_box() : gstk_box{};
        Region changed{};
        check(gstk_session_set_prompts(handle_.get(), box ? &c_box : nullptr, given.data(), given.size(), object_id,
                                       &changed));
        return changed;
    }

    Region undo() {
        Region changed{};
        check(gstk_session_undo(handle_.get(), &changed));
        return changed;
    }

    Region redo() {
        Region changed{};
        check(gstk_session_redo(handle_.get(), &changed));
        return changed;
    }

    // Forgets an object, or with 0 all of them.
    void reset(std::uint32_t object_id = 0) { check(gstk_session_reset(handle_.get(), object_id)); }

    // Object ids (z, y, x) of the whole image, or of a part such as what a prompt changed.
    std::vector<std::uint16_t> mask() const { return mask(whole_); }
    std::vector<std::uint16_t> mask(const Region& region) const {
        std::vector<std::uint16_t> result(static_cast<std::size_t>(voxel_count(region)));
        check(gstk_session_read_mask(handle_.get(), &region, result.data(), result.size()));
        return result;
    }

    // The part of the volume that the network saw for an object.
    Window window(std::uint32_t object_id = 1) const {
        Window result{};
        check(gstk_session_get_window(handle_.get(), object_id, &result));
        return result;
    }

    // Seconds within which each call that makes a mask ends from now on, always with a mask; 0: any number.
    void set_time_limit(double seconds) { check(gstk_session_set_time_limit(handle_.get(), seconds)); }

    // Ends the call that another thread is in: it throws GSTK_ERROR_CANCELLED, and changed nothing.
    void cancel() { check(gstk_session_cancel(handle_.get())); }

    CallReport report() const {
        gstk_call_report found = GSTK_CALL_REPORT_INIT;
        check(gstk_session_get_report(handle_.get(), &found));
        return {found.limit_s,          found.spent_s,
                found.encodes,          found.decodes,
                found.is_fallback != 0, split_lines(found.compromises)};
    }

    gstk_session* get() const { return handle_.get(); }

  private:
    Owned<gstk_session, gstk_session_close> handle_;
    Region whole_{};
};

}  // namespace gstk

#endif
