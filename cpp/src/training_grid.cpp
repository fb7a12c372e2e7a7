#include "training_grid.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace gstk::impl {
namespace {

constexpr double kRightAngle = 1e-3;  // largest scalar product of two axes that count as at right angles

void check_right_angles(const Profile& profile, const Matrix& axes) {
    for (int a = 0; a < 3; ++a)
        for (int b = a + 1; b < 3; ++b) {
            const double product = axes[0][a] * axes[0][b] + axes[1][a] * axes[1][b] + axes[2][a] * axes[2][b];
            if (std::abs(product) > kRightAngle)
                throw error(GSTK_ERROR_PROFILE, "got a volume whose axes are not at right angles for the profile ",
                            printable(profile.name), ", which resamples to ", profile.spacing_mm,
                            " mm; resample it to a grid of right angles first");
        }
}

// A part of a volume as float.
Grid<float> as_float(const Volume& volume, const Region& part) {
    Grid<float> result(part.shape());
    const Shape& whole = volume.geometry.shape();
    volume.visit([&](auto* data) {
        for (std::int64_t z = 0; z < result.shape[0]; ++z)
            for (std::int64_t y = 0; y < result.shape[1]; ++y) {
                const auto* from = data + ((part.start[0] + z) * whole[1] + part.start[1] + y) * whole[2] + part.start[2];
                std::transform(from, from + result.shape[2], result.line(z, y),
                               [](auto value) { return static_cast<float>(value); });
            }
    });
    return result;
}

bool any_above_zero(const Volume& volume, const Region& part) {
    const Shape &whole = volume.geometry.shape(), shape = part.shape();
    return volume.visit([&](auto* data) {
        for (std::int64_t z = 0; z < shape[0]; ++z)
            for (std::int64_t y = 0; y < shape[1]; ++y) {
                const auto* from = data + ((part.start[0] + z) * whole[1] + part.start[1] + y) * whole[2] + part.start[2];
                if (std::any_of(from, from + shape[2], [](auto value) { return value > 0; })) return true;
            }
        return false;
    });
}

// Where voxels of the grid lie between those of the volume, along one axis.
struct Between {
    std::vector<std::int64_t> below;
    std::vector<float> weight;  // of the next voxel
    bool is_whole = true;       // all weights are 0
};

Between between(const std::vector<std::int64_t>& indices, double origin, double step, std::int64_t count) {
    Between found;
    for (const std::int64_t index : indices) {
        const double at = std::clamp(origin + static_cast<double>(index) * step, 0.0, static_cast<double>(count - 1));
        const auto below = std::min(static_cast<std::int64_t>(std::floor(at + 1e-9)), count - 1);
        const double weight = std::clamp(at - static_cast<double>(below), 0.0, 1.0);
        found.below.push_back(below);
        found.weight.push_back(static_cast<float>(weight));
        found.is_whole = found.is_whole && weight <= 1e-7;
    }
    return found;
}

// One axis of a linear interpolation; `first` is the voxel of the volume that the array begins with.
Grid<float> along(const Grid<float>& in, int axis, const Between& at, std::int64_t first) {
    Shape shape = in.shape;
    shape[axis] = static_cast<std::int64_t>(at.below.size());
    Grid<float> out(shape);
    std::int64_t outer = 1, inner = 1;
    for (int a = 0; a < axis; ++a) outer *= shape[a];
    for (int a = axis + 1; a < 3; ++a) inner *= shape[a];
    for (std::int64_t o = 0; o < outer; ++o)
        for (std::size_t i = 0; i < at.below.size(); ++i) {
            const std::int64_t below = at.below[i] - first, above = std::min(below + 1, in.shape[axis] - 1);
            const float* low = in.values.data() + (o * in.shape[axis] + below) * inner;
            const float* high = in.values.data() + (o * in.shape[axis] + above) * inner;
            float* to = out.values.data() + (o * shape[axis] + static_cast<std::int64_t>(i)) * inner;
            if (at.is_whole)
                std::copy_n(low, inner, to);
            else
                for (std::int64_t x = 0; x < inner; ++x) to[x] = low[x] + (high[x] - low[x]) * at.weight[i];
        }
    return out;
}

}  // namespace

std::optional<TrainingGrid> TrainingGrid::of(const Profile& profile, const Volume& volume) {
    if (profile.spacing == "session") return std::nullopt;
    TrainingGrid grid;
    grid.volume_shape_ = volume.geometry.shape();
    if (profile.spacing == "mm") {
        check_right_angles(profile, volume.geometry.direction());
        for (int a = 0; a < 3; ++a) grid.step_[a] = profile.spacing_mm / volume.geometry.spacing_mm()[a];
    }
    grid.places_ = GridPlaces(volume.geometry, grid.step_);
    grid.region_.stop = grid.places_.sides();
    if (grid.places_.is_centred())
        for (int a = 0; a < 3; ++a)
            grid.origin_[a] = (static_cast<double>(grid.volume_shape_[a]) -
                               static_cast<double>(grid.region_.stop[a]) * grid.step_[a]) / 2;
    if (profile.crop_margin) grid.region_ = grid.cropped(volume, *profile.crop_margin);
    return grid;
}

Window TrainingGrid::window(const Voxel& first, const Shape& shape) const {
    Window window{{}, step_, shape};
    for (int a = 0; a < 3; ++a) window.start[a] = origin_[a] + (static_cast<double>(first[a]) - 0.5) * step_[a] + 0.5;
    return window;
}

bool TrainingGrid::holds(const Window& window) const {
    for (int a = 0; a < 3; ++a) {
        if (std::abs(window.step[a] - step_[a]) > 1e-9 * step_[a]) return false;
        const double first = (window.start[a] - origin_[a] - 0.5) / step_[a] + 0.5, whole = std::nearbyint(first);
        if (std::abs(first - whole) > 1e-6 + 1e-5 * std::abs(whole)) return false;
    }
    return true;
}

Voxel TrainingGrid::first_of(const Window& window) const {
    Voxel first{};
    for (int a = 0; a < 3; ++a)
        first[a] = static_cast<std::int64_t>(std::nearbyint((window.start[a] - origin_[a] - 0.5) / step_[a] + 0.5));
    return first;
}

Window TrainingGrid::window_around(const Triple& voxel, const Shape& sides, const AxisMap& axes) const {
    Voxel first{};
    for (std::size_t n = 0; n < 3; ++n) {
        const std::size_t a = axes.order[n];
        const std::int64_t count = region_.stop[a] - region_.start[a], side = sides[a];
        // To be truncated: without noise.
        const double place = (voxel[a] - origin_[a]) / step_[a] - static_cast<double>(region_.start[a]);
        double point = std::nearbyint(place * 1e6) / 1e6;
        if (axes.flipped[n]) point = static_cast<double>(count - 1) - point;
        const std::int64_t before = std::max<std::int64_t>(side - count, 0) / 2, padded = std::max(side, count);
        point += static_cast<double>(before);
        std::int64_t start = 0;
        if (point - static_cast<double>(side / 2) >= 0)
            start = point + static_cast<double>(side / 2) > static_cast<double>(padded)
                        ? padded - side
                        : static_cast<std::int64_t>(point) - side / 2;
        start -= before;
        first[a] = axes.flipped[n] ? region_.stop[a] - start - side : region_.start[a] + start;
    }
    return window(first, sides);
}

Grid<float> TrainingGrid::sample(const Volume& volume, const IntensityRange& range, const Window& window) const {
    const Voxel first = first_of(window);
    Indices index;
    std::array<std::vector<bool>, 3> inside;
    for (int a = 0; a < 3; ++a)
        for (std::int64_t i = first[a]; i < first[a] + window.shape[a]; ++i) {
            index[a].push_back(std::clamp(i, region_.start[a], region_.stop[a] - 1));
            inside[a].push_back(index[a].back() == i);
        }
    Grid<float> values = interpolate(volume, index);
    const auto low = static_cast<float>(range.low), scale = static_cast<float>(1 / (range.high - range.low));
    const bool has_contrast = range.high > range.low;
    for (std::int64_t z = 0; z < window.shape[0]; ++z)
        for (std::int64_t y = 0; y < window.shape[1]; ++y) {
            float* line = values.line(z, y);
            const bool counts = has_contrast && inside[0][z] && inside[1][y];
            for (std::int64_t x = 0; x < window.shape[2]; ++x)
                line[x] = counts && inside[2][x] ? std::min(std::max((line[x] - low) * scale, 0.0f), 1.0f) : 0.0f;
        }
    return values;
}

IntensityRange TrainingGrid::percentiles(const Volume& volume, const std::pair<double, double>& percentiles) const {
    const auto values = std::make_shared<Grid<float>>(interpolate(volume, indices(region_)));
    return intensity_range({Geometry(values->shape, {1, 1, 1}), GSTK_FLOAT32, {values, values->values.data()}}, percentiles);
}

TrainingGrid::Nearest TrainingGrid::nearest(const Window& window, const Grid<float>& values) const {
    const Voxel first = first_of(window);
    Region counted;  // voxels of the window that count
    Nearest found;
    std::array<GridPlaces::Ends, 3> ends;
    bool is_separable = true;
    for (int a = 0; a < 3; ++a) {
        counted.start[a] = std::max(region_.start[a], first[a]);
        counted.stop[a] = std::min(region_.stop[a], first[a] + window.shape[a]);
        ends[a] = places_.nearest_ends(a);
        const auto &least = ends[a].least, &largest = ends[a].largest;
        is_separable = is_separable && least == largest;
        const auto start = std::lower_bound(largest.begin(), largest.end(), counted.start[a]) - largest.begin();
        const auto stop = std::lower_bound(least.begin(), least.end(), counted.stop[a]) - least.begin();
        found.region.start[a] = start;
        found.region.stop[a] = std::max(start, stop);
    }
    found.values = Grid<float>(found.region.shape());
    auto to = found.values.values.begin();
    Voxel from;
    for (std::int64_t z = found.region.start[0]; z < found.region.stop[0]; ++z) {
        from[0] = ends[0].least[z];
        for (std::int64_t y = found.region.start[1]; y < found.region.stop[1]; ++y) {
            from[1] = is_separable ? ends[1].least[y] : places_.nearest(1, {z, y, 0});
            const bool is_inside = from[1] >= counted.start[1] && from[1] < counted.stop[1];
            const float* line = is_inside ? values.line(from[0] - first[0], from[1] - first[1]) : nullptr;
            for (std::int64_t x = found.region.start[2]; x < found.region.stop[2]; ++x, ++to) {
                from[2] = is_separable ? ends[2].least[x] : places_.nearest(2, {z, y, x});
                if (is_inside && from[2] >= counted.start[2] && from[2] < counted.stop[2]) *to = line[from[2] - first[2]];
            }
        }
    }
    return found;
}

TrainingGrid::Indices TrainingGrid::indices(const Region& region) const {
    Indices found;
    for (int a = 0; a < 3; ++a) {
        found[a].resize(static_cast<std::size_t>(region.stop[a] - region.start[a]));
        std::iota(found[a].begin(), found[a].end(), region.start[a]);
    }
    return found;
}

// The part of the grid around its values above 0; all of it where there are none.
Region TrainingGrid::cropped(const Volume& volume, std::int64_t margin) const {
    Region result = region_;
    for (int a = 0; a < 3; ++a) {
        std::int64_t first = 0, last = region_.stop[a] - 1;
        while (first <= last && !has_foreground(volume, a, first)) ++first;
        if (first > last) return region_;
        while (!has_foreground(volume, a, last)) --last;
        result.start[a] = std::max<std::int64_t>(0, first - margin);
        result.stop[a] = std::min(region_.stop[a], last + 1 + margin);
    }
    return result;
}

// Whether a plane of the grid, counted on all of it, has a value above 0.
bool TrainingGrid::has_foreground(const Volume& volume, int axis, std::int64_t index) const {
    Region planes{{}, volume_shape_}, of_grid = region_;
    const auto below = static_cast<std::int64_t>(
        std::floor(std::clamp(origin_[axis] + static_cast<double>(index) * step_[axis], 0.0,
                              static_cast<double>(volume_shape_[axis] - 1))));
    planes.start[axis] = below;
    planes.stop[axis] = std::min(below + 2, volume_shape_[axis]);
    if (!any_above_zero(volume, planes)) return false;  // interpolation makes nothing larger than what it is between
    of_grid.start[axis] = index;
    of_grid.stop[axis] = index + 1;
    const Grid<float> plane = interpolate(volume, indices(of_grid));
    return std::any_of(plane.values.begin(), plane.values.end(), [](float value) { return value > 0; });
}

// Values at voxels of the grid, linear between those of the volume.
Grid<float> TrainingGrid::interpolate(const Volume& volume, const Indices& index) const {
    std::array<Between, 3> places;
    Region support;
    for (int a = 0; a < 3; ++a) {
        places[a] = between(index[a], origin_[a], step_[a], volume_shape_[a]);
        const auto ends = std::minmax_element(places[a].below.begin(), places[a].below.end());
        support.start[a] = *ends.first;
        support.stop[a] = std::min(*ends.second + 2, volume_shape_[a]);
    }
    Grid<float> values = as_float(volume, support);
    const Shape original = values.shape;
    std::array<int, 3> order{0, 1, 2};
    // Axes that shrink most go first, so that the others have less to do.
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
        return static_cast<double>(index[a].size()) / static_cast<double>(original[a]) <
               static_cast<double>(index[b].size()) / static_cast<double>(original[b]);
    });
    for (const int a : order) values = along(values, a, places[a], support.start[a]);
    return values;
}

}  // namespace gstk::impl
