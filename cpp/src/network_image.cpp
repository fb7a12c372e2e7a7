#include "network_image.hpp"

#include <algorithm>

namespace gstk::impl {

NetworkImage NetworkImage::prepare(std::shared_ptr<const Volume> volume, const Profile& profile,
                                   const ImageOptions& options) {
    NetworkImage image;
    image.warnings = volume->notes;
    const bool has_orientation = volume->has_orientation;
    if (profile.orientation == "RAS" && !has_orientation)
        image.warnings.push_back(volume->name +
                                 " does not say how the patient lies: its axes count as right, front and head (RAS)");
    PreparedIntensities prepared = prepare_intensities(std::move(volume), profile, options);
    image.volume = std::move(prepared.image);
    image.words = std::move(prepared.words);
    image.warnings.insert(image.warnings.end(), prepared.warnings.begin(), prepared.warnings.end());
    image.axes = AxisMap::of(profile, image.geometry(), has_orientation);
    image.grid = TrainingGrid::of(profile, *image.volume);
    // A profile with a foreground has a grid.
    image.range = prepared.range ? *prepared.range : image.grid->percentiles(*image.volume, profile.percentiles);
    image.patch_zyx = image.axes.sides_to_volume(profile.patch);
    image.takes_nearest = profile.projection == "nearest";
    return image;
}

Grid<float> NetworkImage::patch(const Window& window) const {
    return is_on_grid(window) ? grid->sample(*volume, range, window) : window.sample(*volume, range);
}

std::array<float, 3> NetworkImage::point(const Window& window, const Triple& zyx) const {
    // On the training grid a click at the volume's end may lie beyond the last voxel's middle, and MONAI leaves it.
    const float rim = is_on_grid(window) ? 0.5f : 0.0f;
    auto local = window.to_window(zyx);
    for (int a = 0; a < 3; ++a)
        local[a] = std::min(std::max(local[a], -rim), static_cast<float>(window.shape[a]) - 1 + rim);
    return axes.point_to_network(local, window.shape);
}

std::optional<Window> NetworkImage::training_window(const Triple& zyx) const {
    return grid ? std::optional(grid->window_around(zyx, patch_zyx, axes)) : std::nullopt;
}

}  // namespace gstk::impl
