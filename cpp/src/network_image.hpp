// A volume as a network sees it: prepared by its profile, in its axes, and where it says so on its training grid; mirrors
// gstk.core.network_image.
#pragma once

#include "intensities.hpp"
#include "training_grid.hpp"

namespace gstk::impl {

// A prepared volume; windows are of the volume, in its own axes (z,y,x).
struct NetworkImage {
    std::shared_ptr<const Volume> volume;
    IntensityRange range{};            // its values that are the network's 0 and 1
    AxisMap axes;                      // from the volume's axes to the network's
    std::optional<TrainingGrid> grid;  // none where the network has no resolution
    Shape patch_zyx{};                 // sides of the training window
    bool takes_nearest = false;        // whether masks come back from the grid by nearest voxels
    std::string words;                 // what was done to intensities
    std::vector<std::string> warnings;

    // Throws as `prepare_intensities` and `TrainingGrid::of` do.
    static NetworkImage prepare(std::shared_ptr<const Volume> volume, const Profile& profile, const ImageOptions& options);

    const Geometry& geometry() const { return volume->geometry; }
    bool is_on_grid(const Window& window) const { return grid && grid->holds(window); }
    // The image on a window's grid, (z,y,x), 0 to 1.
    Grid<float> patch(const Window& window) const;
    // A voxel of the volume as one of the network's image of a window, put inside it.
    std::array<float, 3> point(const Window& window, const Triple& zyx) const;
    // The window of the training around a voxel; nothing where the network has no resolution.
    std::optional<Window> training_window(const Triple& zyx) const;
};

}  // namespace gstk::impl
