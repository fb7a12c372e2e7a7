// How a click changes a mask: in the component that holds it, and near it; mirrors gstk.session.click_update.
//
// A mask is kept as logits in a box of the volume, above 0 inside the object.
#pragma once

#include <array>
#include <vector>

#include "prompts.hpp"
#include "regions.hpp"

namespace gstk::impl {

// Logits at the volume's voxels of a region.
struct Logits {
    Region region;
    Grid<float> values;
};

// Values of a region on a wider one; -1, outside the mask, where it does not reach.
Grid<float> spread(const Logits& logits, const Region& wider);

// The 26-connected components of a mask that hold a point; the whole mask where none does.
Mask clicked_components(const Mask& mask, const std::vector<std::array<float, 3>>& points);

// Sets logits to -1 in the components of the mask that hold no foreground click; in none where no click lies in it.
void keep_clicked_components(Logits& logits, const ObjectPrompts& prompts);

// Makes the clicked voxels what they were clicked as: at least 1 on the object, at most -1 beside it.
void enforce_clicks(Logits& logits, const ObjectPrompts& prompts);

// Squared distances in mm along each axis of a region from a voxel; a voxel's own is the sum of its three.
struct SquaredDistance {
    std::array<std::vector<float>, 3> axes;

    SquaredDistance(const Voxel& zyx, const Region& region, const Triple& spacing_mm) {
        for (int a = 0; a < 3; ++a)
            for (std::int64_t i = region.start[a]; i < region.stop[a]; ++i) {
                const float away =
                    (static_cast<float>(i) - static_cast<float>(zyx[a])) * static_cast<float>(spacing_mm[a]);
                axes[a].push_back(away * away);
            }
    }
    float at(std::int64_t z, std::int64_t y, std::int64_t x) const {
        return axes[0][static_cast<std::size_t>(z)] + axes[1][static_cast<std::size_t>(y)] +
               axes[2][static_cast<std::size_t>(x)];
    }
};

// How far a click may change a mask.
struct ClickScope {
    Point click;
    std::vector<Voxel> opposite;  // voxels of the clicks that say the opposite
    Triple spacing_mm;            // of the volume
    bool is_boxed = false;        // whether a box says where the object ends
};

// The mask before the click, with the part that the click asked for taken from the network's answer after it.
//
// As VISTA3D's own inference does (`connected_components_combine`), a foreground click adds the component that holds it
// and a background click removes it. Neither reaches far beyond where the mask before, or a click, says the opposite.
Logits apply_click(const ClickScope& scope, const Logits& before, const Logits& after);

// A mask without the network: the one before, or the ellipsoid in the box; with a small ball at each click.
//
// `before`: null where there is none; then there is a box or a foreground click.
Logits fallback_mask(const ObjectPrompts& prompts, const Geometry& geometry, const Logits* before);

}  // namespace gstk::impl
