// From a volume's own units to what a network takes as 0 and 1; mirrors gstk.core.intensities, number for number.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "intensity_range.hpp"
#include "profile.hpp"

namespace gstk::impl {

// How a host wants intensities to be read; empty leaves it to the volume and the profile.
struct ImageOptions {
    // For networks that take the challenge's 0 to 255, how other intensities are brought there: "auto", the name of a CT
    // window (soft, lung, brain, bone), "percentile", or "width,level".
    std::string intensity_window;
    // For networks that take HU, the window by which 0 to 255 were made, or "hu" for values that are HU.
    std::string assume_window;
};

// An image whose values `range` are the network's 0 and 1.
struct PreparedIntensities {
    std::shared_ptr<const Volume> image;  // as it was, or rescaled
    std::optional<IntensityRange> range;  // none where it is percentiles of the foreground, which the resampling tells
    std::string words;                    // what was done
    std::vector<std::string> warnings;    // what is probably not what the network was trained on
};

// What a profile makes of a volume's values. Throws GSTK_ERROR_PROFILE where they do not fit it, or a window is given that
// it does not use; GSTK_ERROR_CASE where a window is unknown.
PreparedIntensities prepare_intensities(std::shared_ptr<const Volume> volume, const Profile& profile,
                                        const ImageOptions& options);

}  // namespace gstk::impl
