#include "chain.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>

#include "fields.hpp"
#include "masks.hpp"

namespace gstk::impl {
namespace {

constexpr std::size_t kMostParts = 6;
// A chain is made where the voxels of its windows are so many times shorter than those of the one window.
constexpr double kFiner = 1.5;
// Points of the coarse mask that prompt a window.
constexpr std::size_t kSeeds = 3;
// Of the chains that are finer by no more than this, the one of the fewest windows is made.
constexpr double kEnough = 1.1;
// Share of a window's side over which its answer fades out towards a face that has the volume on both sides.
constexpr double kRamp = 0.2;
// Most voxels of the grid that answers are blended on.
constexpr std::int64_t kBlendedVoxels = 4000000;
constexpr std::int64_t kSolid = 8;

double finest_mm(const Geometry& geometry) {
    return *std::min_element(geometry.spacing_mm().begin(), geometry.spacing_mm().end());
}

// Faces of what some cells take up.
Faces bounds_of(const std::vector<Faces>& cells, const std::vector<std::size_t>& own) {
    Faces found = cells[own.front()];
    for (const std::size_t i : own)
        for (int a = 0; a < 3; ++a) {
            found.low[a] = std::min(found.low[a], cells[i].low[a]);
            found.high[a] = std::max(found.high[a], cells[i].high[a]);
        }
    return found;
}

Part part_of(const Geometry& geometry, const std::vector<Faces>& cells, std::vector<std::size_t> own, Framing framing) {
    Faces faces = bounds_of(cells, own);
    // A click alone says nothing about the object's size; its window is one of the volume's finest spacing.
    const double least_mm = finest_mm(geometry) * std::pow(static_cast<double>(framing.voxels), 1.0 / 3.0) /
                            (1 + 2 * framing.margin);
    for (int a = 0; a < 3; ++a) {
        const double least = least_mm / geometry.spacing_mm()[a];
        const double wider = std::max(least - (faces.high[a] - faces.low[a]), 0.0) / 2;
        faces.low[a] -= wider;
        faces.high[a] += wider;
    }
    framing.finest = 1;
    return {std::move(own), frame(geometry, faces, framing)};
}

// The cells before and behind the middle of the longest axis; nothing where they are all on one side.
std::vector<std::vector<std::size_t>> halves_of(const Geometry& geometry, const std::vector<Faces>& cells,
                                                const Part& part) {
    const Faces faces = bounds_of(cells, part.cells);
    int axis = 0;
    const auto side_mm = [&](int a) { return (faces.high[a] - faces.low[a]) * geometry.spacing_mm()[a]; };
    for (int a = 1; a < 3; ++a)
        if (side_mm(a) > side_mm(axis)) axis = a;
    std::vector<std::vector<std::size_t>> halves(2);
    const double middle = (faces.low[axis] + faces.high[axis]) / 2;
    for (const std::size_t i : part.cells)
        halves[(cells[i].low[axis] + cells[i].high[axis]) / 2 < middle ? 0 : 1].push_back(i);
    if (halves[0].empty() || halves[1].empty()) return {};
    return halves;
}

// First and last of some voxels along each axis.
std::pair<Voxel, Voxel> ends_of(const std::vector<Voxel>& voxels) {
    std::pair<Voxel, Voxel> ends{voxels.front(), voxels.front()};
    for (const auto& voxel : voxels)
        for (int a = 0; a < 3; ++a) {
            ends.first[a] = std::min(ends.first[a], voxel[a]);
            ends.second[a] = std::max(ends.second[a], voxel[a]);
        }
    return ends;
}

// Voxels divided along the axis on which they are longest, those parts that are not empty.
std::vector<std::vector<Voxel>> stretches_of(const std::vector<Voxel>& voxels) {
    if (voxels.empty()) return {};
    const auto [first, last] = ends_of(voxels);
    std::size_t axis = 0;
    for (std::size_t a = 1; a < 3; ++a)
        if (last[a] - first[a] > last[axis] - first[axis]) axis = a;
    std::vector<std::vector<Voxel>> found(kSeeds);
    for (const auto& voxel : voxels) {
        const std::int64_t along = static_cast<std::int64_t>(kSeeds) * (voxel[axis] - first[axis]);
        found[static_cast<std::size_t>(along / (last[axis] - first[axis] + 1))].push_back(voxel);
    }
    found.erase(std::remove_if(found.begin(), found.end(), [](const auto& part) { return part.empty(); }), found.end());
    return found;
}

// The voxel that is deepest; of those that are as deep, the one nearest to the middle of all.
Voxel deepest_of(const Grid<std::int64_t>& depth, const std::vector<Voxel>& voxels) {
    const auto [first, last] = ends_of(voxels);
    Voxel found = voxels.front();
    std::int64_t most = -1, nearest = 0;
    for (const auto& voxel : voxels) {
        std::int64_t off = 0;
        for (std::size_t a = 0; a < 3; ++a) {
            const std::int64_t twice = 2 * voxel[a] - first[a] - last[a];
            off += twice * twice;
        }
        const std::int64_t here = depth.values[depth.index(voxel)];
        if (here < most || (here == most && off >= nearest)) continue;
        found = voxel;
        most = here;
        nearest = off;
    }
    return found;
}

// Of a window's answer along an axis, at a face coordinate of a volume of n voxels.
float weight_along(const Window& window, int axis, double at, std::int64_t n) {
    const double start = window.start[axis], stop = window.stop()[axis], ramp = kRamp * (stop - start);
    const double rising = start <= 0 ? 1 : (at - start) / ramp;
    const double falling = stop >= static_cast<double>(n) ? 1 : (stop - at) / ramp;
    return static_cast<float>(std::min(std::max(std::min(rising, falling), 0.0), 1.0));
}

// A window as the grid of another has it.
Window seen_from(const Window& grid, const Window& window) {
    Window local = window;
    for (int a = 0; a < 3; ++a) {
        local.start[a] = (window.start[a] - grid.start[a]) / grid.step[a];
        local.step[a] = window.step[a] / grid.step[a];
    }
    return local;
}

}  // namespace

NetworkPoints Link::points(const ObjectPrompts& prompts, const Geometry& geometry) const {
    NetworkPoints found;
    const auto add = [&](const Triple& zyx, std::int64_t label) {
        found.coords.push_back(zyx);
        found.labels.push_back(label);
    };
    const auto shows = [&](const Point& p) { return window.holds(as_triple(p.zyx)); };
    for (const auto& seed : seeds) {
        const auto denied = [&](const Point& p) {
            if (p.foreground || !shows(p)) return false;
            Triple away = as_triple(p.zyx);
            for (int a = 0; a < 3; ++a) away[a] = (away[a] - seed.zyx[a]) * geometry.spacing_mm()[a];
            return away[0] * away[0] + away[1] * away[1] + away[2] * away[2] <= seed.reach_mm * seed.reach_mm;
        };
        if (std::none_of(prompts.points.begin(), prompts.points.end(), denied)) add(seed.zyx, 1);
    }
    for (const auto& p : prompts.points)
        if (shows(p)) add(as_triple(p.zyx), p.foreground ? 1 : 0);
    return found;
}

double Link::weight(const Voxel& zyx, const Shape& shape) const {
    double weight = 1;
    for (int a = 0; a < 3; ++a) weight *= weight_along(window, a, static_cast<double>(zyx[a]) + 0.5, shape[a]);
    return weight;
}

std::size_t Chain::size_bytes() const {
    std::size_t voxels = coarse->values.size();
    for (const auto& link : links) voxels += link.logits->values.size();
    return voxels * sizeof(float);
}

double Chain::weight(const Voxel& zyx, const Shape& shape) const {
    double sum = 0;
    for (const auto& link : links) sum += link.weight(zyx, shape);
    return std::min(1.0, sum);
}

Grid<float> Chain::blended(const Window& window, const Shape& shape) const {
    const Window local = seen_from(window, grid);
    std::vector<std::pair<Window, std::shared_ptr<const Grid<float>>>> answers;
    for (const auto& link : links) answers.emplace_back(link.window, link.logits);
    return blend(grid, shape, resample(*coarse, local.start, local.step, grid.shape, Outside::kEdge), answers);
}

std::vector<Part> parts_of(const Geometry& geometry, const std::vector<Faces>& cells, const Framing& framing,
                           double side_mm) {
    std::vector<std::size_t> all(cells.size());
    std::iota(all.begin(), all.end(), std::size_t{0});
    std::vector<std::vector<Part>> chains{{part_of(geometry, cells, std::move(all), framing)}};
    const auto side_of = [&](const Part& part) { return part.window.side_mm(geometry); };
    while (chains.back().size() < kMostParts) {
        std::vector<Part> found = chains.back();
        // The coarsest that can be halved, the first of them.
        std::vector<std::size_t> order(found.size());
        std::iota(order.begin(), order.end(), std::size_t{0});
        std::stable_sort(order.begin(), order.end(),
                         [&](std::size_t i, std::size_t j) { return side_of(found[i]) > side_of(found[j]); });
        std::vector<std::vector<std::size_t>> halves;
        for (auto index = order.begin(); index != order.end() && halves.empty(); ++index) {
            if (side_of(found[*index]) > finest_mm(geometry)) halves = halves_of(geometry, cells, found[*index]);
            if (halves.empty()) continue;
            const auto at = found.begin() + static_cast<std::ptrdiff_t>(*index);
            *at = part_of(geometry, cells, std::move(halves[0]), framing);
            found.insert(at + 1, part_of(geometry, cells, std::move(halves[1]), framing));
        }
        if (halves.empty()) break;
        chains.push_back(std::move(found));
    }
    std::vector<double> sides;
    for (const auto& chain : chains) {
        sides.push_back(0);
        for (const auto& part : chain) sides.back() = std::max(sides.back(), side_of(part));
    }
    const double enough = kEnough * *std::min_element(sides.begin(), sides.end());
    const auto chosen = std::find_if(sides.begin(), sides.end(), [&](double side) { return side <= enough; });
    if (chosen == sides.begin() || *chosen * kFiner > side_mm) return {};
    return chains[static_cast<std::size_t>(chosen - sides.begin())];
}

std::vector<Faces> solid(const Faces& box) {
    std::vector<Faces> cells;
    for (std::int64_t z = 0; z < kSolid; ++z)
        for (std::int64_t y = 0; y < kSolid; ++y)
            for (std::int64_t x = 0; x < kSolid; ++x) {
                const Triple first = as_triple({z, y, x});
                Faces cell{};
                for (int a = 0; a < 3; ++a) {
                    const double size = (box.high[a] - box.low[a]) / static_cast<double>(kSolid);
                    cell.low[a] = box.low[a] + first[a] * size;
                    cell.high[a] = box.low[a] + (first[a] + 1) * size;
                }
                cells.push_back(cell);
            }
    return cells;
}

std::vector<Link> links_of(const Geometry& geometry, const Window& window, const Grid<float>& logits,
                           const ObjectPrompts& prompts, const Framing& framing) {
    const double side_mm = window.side_mm(geometry);
    if (side_mm < kFiner * finest_mm(geometry)) return {};
    Grid<std::uint8_t> mask(logits.shape);
    std::transform(logits.values.begin(), logits.values.end(), mask.values.begin(), [](float v) { return v > 0; });
    std::vector<std::array<float, 3>> clicked;
    std::vector<Faces> cells;
    std::vector<Voxel> voxels;
    for (const auto& p : prompts.points)
        if (p.foreground) clicked.push_back(window.to_window(as_triple(p.zyx)));
    mask = clicked_components(mask, clicked);
    for (std::int64_t z = 0; z < mask.shape[0]; ++z)
        for (std::int64_t y = 0; y < mask.shape[1]; ++y)
            for (std::int64_t x = 0; x < mask.shape[2]; ++x) {
                if (!mask.values[mask.index(z, y, x)]) continue;
                const Voxel voxel{z, y, x};
                Faces cell{};
                for (int a = 0; a < 3; ++a) {
                    cell.low[a] = static_cast<double>(voxel[a]) * window.step[a] + window.start[a];
                    cell.high[a] = static_cast<double>(voxel[a] + 1) * window.step[a] + window.start[a];
                }
                voxels.push_back(voxel);
                cells.push_back(cell);
            }
    for (const auto& p : prompts.points)
        if (p.foreground) cells.push_back({as_triple(p.zyx), as_triple({p.zyx[0] + 1, p.zyx[1] + 1, p.zyx[2] + 1})});
    if (cells.empty()) return {};
    // Beyond the ends of the window and of the volume the object may go on.
    for (std::int64_t z = 0; z < mask.shape[0]; ++z)
        for (std::int64_t y = 0; y < mask.shape[1]; ++y)
            for (std::int64_t x = 0; x < mask.shape[2]; ++x)
                for (int a = 0; a < 3; ++a) {
                    const double centre = (as_triple({z, y, x})[a] + 0.5) * window.step[a] + window.start[a];
                    if (centre < 0 || centre > static_cast<double>(geometry.shape()[a]))
                        mask.values[mask.index(z, y, x)] = 1;
                }
    const Grid<std::int64_t> depth = taxicab(mask);
    const bool full = std::find(mask.values.begin(), mask.values.end(), 0) == mask.values.end();
    const auto is_thick = [&](const Voxel& voxel) { return depth.values[depth.index(voxel)] > kThin; };
    if (full || std::any_of(voxels.begin(), voxels.end(), is_thick)) return {};
    std::vector<Link> links;
    for (auto& part : parts_of(geometry, cells, framing, side_mm)) {
        Link link{part.window, {}, nullptr};
        std::vector<Voxel> shown;
        const auto centre = [&](const Voxel& voxel) {
            Triple at = as_triple(voxel);
            for (int a = 0; a < 3; ++a) at[a] = (at[a] + 0.5) * window.step[a] + window.start[a] - 0.5;
            return at;
        };
        std::copy_if(voxels.begin(), voxels.end(), std::back_inserter(shown),
                     [&](const Voxel& voxel) { return part.window.holds(centre(voxel)); });
        for (const auto& stretch : stretches_of(shown)) {
            const Voxel voxel = deepest_of(depth, stretch);
            link.seeds.push_back({centre(voxel), static_cast<double>(depth.values[depth.index(voxel)]) * side_mm});
        }
        links.push_back(std::move(link));
    }
    return links;
}

Window grid_of(const Geometry& geometry, const Window& window, const std::vector<Link>& links) {
    Region part;
    for (int a = 0; a < 3; ++a) {
        double low = links.front().window.start[a], high = links.front().window.stop()[a];
        for (const auto& link : links) {
            low = std::min(low, link.window.start[a]);
            high = std::max(high, link.window.stop()[a]);
        }
        const double first = std::floor((low - window.start[a]) / window.step[a]);
        const double last = std::ceil((high - window.start[a]) / window.step[a]);
        part.start[a] = std::max<std::int64_t>(static_cast<std::int64_t>(first), 0);
        part.stop[a] = std::min(static_cast<std::int64_t>(last), window.shape[a]);
    }
    auto finer = std::max<std::int64_t>(
        1, static_cast<std::int64_t>(std::nearbyint(window.side_mm(geometry) / finest_mm(geometry))));
    while (finer > 1 && count_of(part.shape()) * finer * finer * finer > kBlendedVoxels) --finer;
    return window.part(part, finer);
}

Grid<float> blend(const Window& grid, const Shape& shape, Grid<float> coarse,
                  const std::vector<std::pair<Window, std::shared_ptr<const Grid<float>>>>& answers) {
    Grid<float> total(grid.shape), weights(grid.shape);
    for (const auto& [window, values] : answers) {
        const Window local = seen_from(grid, window);
        const Region where = local.inside(grid.shape);
        const Grid<float> placed = local.back(*values, grid.shape);
        std::array<std::vector<float>, 3> along;
        for (int a = 0; a < 3; ++a)
            for (std::int64_t i = where.start[a]; i < where.stop[a]; ++i) {
                const double at = grid.start[a] + (static_cast<double>(i) + 0.5) * grid.step[a];
                along[a].push_back(weight_along(window, a, at, shape[a]));
            }
        for (std::int64_t z = 0; z < placed.shape[0]; ++z)
            for (std::int64_t y = 0; y < placed.shape[1]; ++y) {
                const float outer = along[0][static_cast<std::size_t>(z)] * along[1][static_cast<std::size_t>(y)];
                const float* from = placed.line(z, y);
                const std::int64_t gz = z + where.start[0], gy = y + where.start[1];
                float* sum = total.line(gz, gy) + where.start[2];
                float* weight = weights.line(gz, gy) + where.start[2];
                for (std::int64_t x = 0; x < placed.shape[2]; ++x) {
                    const float w = outer * along[2][static_cast<std::size_t>(x)];
                    sum[x] += w * from[x];
                    weight[x] += w;
                }
            }
    }
    for (std::size_t i = 0; i < coarse.values.size(); ++i) {
        const float rest = std::max(1.0f - weights.values[i], 0.0f);
        coarse.values[i] = (total.values[i] + rest * coarse.values[i]) / (weights.values[i] + rest);
    }
    return coarse;
}

}  // namespace gstk::impl
