// What a click does to a mask: it changes what is connected to it and near it; mirrors gstk.masks.
//
// A mask is kept as logits on a box of the volume, above 0 inside the object.
#pragma once

#include <array>
#include <vector>

#include "prompts.hpp"

namespace gstk::impl {

// A part of a volume and what the network made of it.
struct Logits {
    Region region;
    Grid<float> values;
};

// The 26-connected parts of a mask (bytes, 0 or 1) that hold a point; all of it where none does.
Grid<std::uint8_t> clicked_components(const Grid<std::uint8_t>& mask, const std::vector<std::array<float, 3>>& points);

// Sets logits to -1 wherever the mask is not connected to a foreground click.
void clean(Logits& logits, const ObjectPrompts& prompts);

// Makes the clicked voxels what they were clicked as: at least 1 on the object, at most -1 off it.
void hold(Logits& logits, const ObjectPrompts& prompts);

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

// What says how far a click changes a mask.
struct Reach {
    Point click;
    std::vector<Voxel> opposite;  // of the clicks that say the opposite
    Triple spacing_mm;            // that distances from them are measured in
    bool weighed = false;  // logits are evidence of one scale (refine.hpp), to be weighed against where the click is
};

// The mask before, changed to the one after in the part that the click asked for.
//
// As VISTA3D's own inference does (`connected_components_combine`), a foreground click adds what is connected to it and
// a background click takes such away. Neither reaches far beyond a click that said the opposite. Logits that may be
// weighed are, first, against where the click is.
Logits change_near(const Reach& reach, const Logits& before, const Logits& after);

// A mask without the network: the one before, or the ellipsoid in the box; with a small ball at each click.
//
// `before`: null where there is none; then there is a box or a foreground click.
Logits prompt_shape(const ObjectPrompts& prompts, const Geometry& geometry, const Logits* before);

// The smallest box around both; empty where there is neither.
Region merged(const Region* first, const Region* second);

}  // namespace gstk::impl
