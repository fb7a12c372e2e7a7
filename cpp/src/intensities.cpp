#include "intensities.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <type_traits>
#include <utility>

namespace gstk::impl {
namespace {

constexpr double kAirHu = -900, kVacuumHu = -1000;
constexpr IntensityRange kAir{-1100, kAirHu}, kFat{-200, -10};
constexpr double kCtShare = 0.01;  // of the voxels that are not padding, the share of air, or of fat, that CT has
constexpr std::pair<double, double> kPercentiles{0.5, 99.5};

struct CtWindow {
    std::string name;  // empty for one that is given as numbers
    double width, level;

    double low() const { return level - width / 2; }
    double high() const { return level + width / 2; }
};

const std::array<CtWindow, 4>& ct_windows() {
    static const std::array<CtWindow, 4> windows{
        {{"soft", 400, 40}, {"lung", 1500, -160}, {"brain", 80, 40}, {"bone", 1800, 400}}};
    return windows;
}

// A choice of window: "auto", "percentile", or a window.
struct Choice {
    std::string rule;
    CtWindow window{};

    static Choice of(const CtWindow& window) { return {"", window}; }
    static Choice parse(const std::string& text);
};

// One number as a text says it, whatever the host's locale; nothing where there is more or less than that.
std::optional<double> number_in(const std::string& text) {
    std::istringstream in(text);
    in.imbue(std::locale::classic());
    double value = 0;
    return in >> value && (in >> std::ws).eof() && std::isfinite(value) ? std::optional(value) : std::nullopt;
}

Choice Choice::parse(const std::string& text) {
    if (text.empty() || text == "auto") return {"auto"};
    if (text == "percentile") return {"percentile"};
    for (const CtWindow& window : ct_windows())
        if (text == window.name) return of(window);
    const auto comma = text.find(',');
    const auto width = number_in(text.substr(0, comma));
    const auto level = comma == std::string::npos ? std::nullopt : number_in(text.substr(comma + 1));
    if (!width || !level || *width <= 0)
        throw error(GSTK_ERROR_CASE, "got the window '", printable(text),
                    "', expected auto, percentile, soft, lung, brain, bone, or a width > 0 and a level: 400,40");
    return of({"", *width, *level});
}

std::shared_ptr<Volume> with_voxels(const Volume& volume, gstk_dtype dtype, std::shared_ptr<const void> voxels) {
    auto result = std::make_shared<Volume>(volume);
    result->dtype = dtype;
    result->voxels = std::move(voxels);
    return result;
}

struct Padding {
    bool is_ct, is_padded;
};

// Whether an image whose minimum is air in HU, or less, is CT, and whether that minimum is padding.
//
// Below -1000 HU there is nothing, so a lowest value there may be what fills the corners, of MR as well as of CT. CT also
// has air, lung or fat among its other voxels; MR, padded, has its own values only, from 0 on.
Padding padding_of(const Volume& image, double low) {
    if (low >= kVacuumHu) return {true, false};
    double inside = 0, air = 0, fat = 0;
    image.visit([&](auto* data) {
        const auto least = *std::min_element(data, data + image.count());  // as a double it may be others, too
        for (std::int64_t i = 0; i < image.count(); ++i) {
            if (data[i] == least) continue;
            const auto value = static_cast<double>(data[i]);
            ++inside;
            if (value >= kAir.low && value <= kAir.high) ++air;
            if (value >= kFat.low && value <= kFat.high) ++fat;
        }
    });
    if (inside < kCtShare * static_cast<double>(image.count())) return {true, false};  // too little to tell
    const bool is_ct = std::max(air, fat) / inside >= kCtShare;
    return {is_ct, !is_ct};
}

struct Limits {
    std::optional<IntensityRange> range;  // what becomes 0 and 255; none leaves the image alone
    std::string words;
};

Limits choose_limits(const Volume& image, Choice choice) {
    const IntensityRange ends = extremes(image);
    std::string reason;
    bool is_padded = false;
    if (choice.rule == "auto") {
        Padding padding{false, false};
        if (image.modality.empty() && ends.low <= kAirHu) padding = padding_of(image, ends.low);
        is_padded = padding.is_padded;
        if ((image.modality == "CT" && image.dtype != GSTK_UINT8) || padding.is_ct) {
            choice = Choice::of(ct_windows()[0]);
            reason = image.modality.empty() ? joined(", for the minimum of ", ends.low, " looks like air in CT")
                                            : ", for DICOM says CT";
        } else if (is_case_like(image)) {
            return {std::nullopt, joined("left as they are, integers from ", ends.low, " to ", ends.high)};
        } else {
            choice = {"percentile"};
        }
    }
    if (choice.rule != "percentile") {
        const CtWindow& window = choice.window;
        return {IntensityRange{window.low(), window.high()},
                joined("CT window ", window.name, window.name.empty() ? "W" : " W", window.width, " L", window.level,
                       reason)};
    }
    if (ends.low == ends.high) return {std::nullopt, joined("left as they are, all ", ends.low)};
    const bool leaves_low_out = ends.low == 0 || is_padded;
    IntensityRange range = percentiles_of(image, kPercentiles, leaves_low_out ? std::optional(ends.low) : std::nullopt);
    if (range.low == range.high) range = ends;
    std::string of_what = ends.low == 0 ? "non-zero voxels" : "all voxels";
    if (is_padded) of_what = joined("voxels above the padding of ", ends.low);
    return {range, joined("percentiles 0.5 and 99.5 of ", of_what, ": ", range.low, " to ", range.high)};
}

// Values clipped to a range and mapped to 0 to 255, halves to even; those of small integers by a table.
std::shared_ptr<const Volume> rescale(const Volume& image, const IntensityRange& range) {
    const auto count = static_cast<std::size_t>(image.count());
    auto scaled = std::make_shared<std::vector<std::uint8_t>>(count);
    const auto scale = [&](double value) {
        const double clipped = std::min(std::max(value, range.low), range.high);
        return static_cast<std::uint8_t>(std::nearbyint((clipped - range.low) / (range.high - range.low) * 255));
    };
    image.visit([&](auto* data) {
        using T = std::remove_const_t<std::remove_pointer_t<decltype(data)>>;
        if constexpr (std::is_integral_v<T> && sizeof(T) <= 2) {
            constexpr int lowest = std::numeric_limits<T>::min();
            std::vector<std::uint8_t> table(std::size_t{1} << (8 * sizeof(T)));
            for (std::size_t i = 0; i < table.size(); ++i) table[i] = scale(lowest + static_cast<int>(i));
            std::transform(data, data + count, scaled->begin(),
                           [&](T value) { return table[static_cast<std::size_t>(value - lowest)]; });
        } else {
            std::transform(data, data + count, scaled->begin(), [&](T value) { return scale(static_cast<double>(value)); });
        }
    });
    return with_voxels(image, GSTK_UINT8, {scaled, scaled->data()});
}

// An image as the paper made the challenge's cases.
void window_image(PreparedIntensities& prepared, const Choice& choice) {
    if (!choice.rule.empty()) prepared.image = bring_within_reach(prepared.image);
    Limits limits = choose_limits(*prepared.image, choice);
    prepared.words = std::move(limits.words);
    if (!limits.range) return;
    const std::shared_ptr<const Volume> before = prepared.image;
    prepared.image = rescale(*before, *limits.range);
    if (is_constant(*prepared.image) && !is_constant(*before)) {
        const IntensityRange ends = extremes(*before);
        prepared.warnings.push_back(joined("the ", prepared.words, " leaves the one value ",
                                           extremes(*prepared.image).low, " of ", before->name, ", whose values are ",
                                           ends.low, " to ", ends.high,
                                           ": nothing in it can be told apart; give another window"));
    }
}

// 0 to 255 taken back to HU by the window that made them.
void invert_window(PreparedIntensities& prepared, const std::string& assumed) {
    const Volume& volume = *prepared.image;
    const Choice choice = Choice::parse(assumed);
    if (!choice.rule.empty())
        throw error(GSTK_ERROR_PROFILE, "got the assumed window '", printable(assumed),
                    "', expected hu, soft, lung, brain, bone or width,level");
    const IntensityRange ends = extremes(volume);
    if (ends.low < 0 || ends.high > 255)
        throw error(GSTK_ERROR_PROFILE, "got an assumed window for ", volume.name,
                    ", whose values are not 0 to 255; leave it out");
    const double low = choice.window.low(), width = choice.window.width;
    const auto slope = static_cast<float>(width / 255), intercept = static_cast<float>(low);
    auto values = std::make_shared<std::vector<float>>(static_cast<std::size_t>(volume.count()));
    volume.visit([&](auto* data) {
        std::transform(data, data + volume.count(), values->begin(),
                       [&](auto value) { return static_cast<float>(value) * slope + intercept; });
    });
    prepared.words = joined("0 to 255 taken back to ", low, " to ", low + width, " HU; what was beyond is lost");
    prepared.image = with_voxels(volume, GSTK_FLOAT32, {values, values->data()});
}

void take_hounsfield(PreparedIntensities& prepared, const Profile& profile, const std::string& assumed) {
    const Volume& volume = *prepared.image;
    if (!assumed.empty() && assumed != "hu") return invert_window(prepared, assumed);
    prepared.words = "taken as HU";
    if (volume.units == "HU" || assumed == "hu") return;
    if (volume.units == "0-255" || is_case_like(volume))
        throw error(GSTK_ERROR_PROFILE, "got ", volume.name, " with values of 0 to 255 for the profile ",
                    printable(profile.name),
                    ", expected HU; give the CT that it was made of, or the assumed window soft to take the window back "
                    "with loss (hu if the values are HU)");
    if (!volume.modality.empty()) {
        prepared.words = joined("values of ", volume.modality, " taken as HU");
        prepared.warnings.push_back(joined(volume.name, " is ", volume.modality, ", but the profile ",
                                           printable(profile.name), " is for CT: its values count as HU"));
        return;
    }
    const double low = extremes(volume).low;
    if (low <= kAirHu && padding_of(volume, low).is_ct) {
        prepared.words = "taken as HU, for the minimum looks like air";
        return;
    }
    prepared.warnings.push_back(
        joined(volume.name, " does not say its units, and nothing in it looks like air: its values count as HU"));
}

}  // namespace

PreparedIntensities prepare_intensities(std::shared_ptr<const Volume> volume, const Profile& profile,
                                        const ImageOptions& options) {
    const Choice choice = Choice::parse(options.intensity_window);
    PreparedIntensities prepared{std::move(volume), {}, "taken as they are", {}};
    if (is_constant(*prepared.image))
        prepared.warnings.push_back(joined("all voxels of ", prepared.image->name, " have the value ",
                                           extremes(*prepared.image).low, ": nothing in it can be told apart"));
    if (profile.source != "case" && choice.rule != "auto")
        throw error(GSTK_ERROR_PROFILE, "got the window ", printable(options.intensity_window), " for the profile ",
                    printable(profile.name), ", which takes intensities as they are; leave it out");
    if (profile.source != "hounsfield" && !options.assume_window.empty())
        throw error(GSTK_ERROR_PROFILE, "got an assumed window for the profile ", printable(profile.name),
                    ", which takes no HU; leave it out");
    if (profile.source == "case") window_image(prepared, choice);
    if (profile.source == "hounsfield") take_hounsfield(prepared, profile, options.assume_window);
    if (profile.has_range) {
        prepared.range = IntensityRange{profile.range.first, profile.range.second};
        prepared.words += joined("; ", profile.range.first, " to ", profile.range.second, " become 0 to 1");
        return prepared;
    }
    const auto& [first, last] = profile.percentiles;
    prepared.words += joined("; percentiles ", first, " and ", last);
    if (profile.scope == "volume") {
        prepared.image = bring_within_reach(prepared.image);
        prepared.range = intensity_range(*prepared.image, profile.percentiles);
        prepared.words += joined(" (", prepared.range->low, " and ", prepared.range->high, ")");
    }
    prepared.words += " become 0 and 1";
    return prepared;
}

}  // namespace gstk::impl
