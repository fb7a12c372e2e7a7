#include "projection.hpp"

#include "thin_boxes.hpp"

namespace gstk::impl {
namespace {

// What says how far the click, one of the prompts, may change the mask.
ClickScope scope_of(const Point& click, const ObjectPrompts& prompts, const Geometry& geometry) {
    ClickScope scope{click, {}, geometry.spacing_mm(), prompts.box.has_value()};
    for (const auto& p : prompts.points)
        if (p.foreground != click.foreground) scope.opposite.push_back(p.zyx);
    if (prompts.box && !click.foreground) scope.opposite.push_back(prompts.box->centre());
    return scope;
}

// Voxels that must be in the region, whatever the network says there.
std::vector<Triple> clicked_voxels(const ObjectPrompts& prompts) {
    std::vector<Triple> clicked;
    for (const auto& p : prompts.points)
        if (p.foreground) clicked.push_back(as_triple(p.zyx));
    return clicked;
}

// Logits on the training grid at the volume's voxels as NVIDIA's pipeline takes them: components that no click lies in go
// first, on the grid; then each voxel takes the nearest.
Logits on_nearest_voxels(const TrainingGrid& grid, const Window& window, Grid<float> logits,
                         const std::vector<Triple>& clicked) {
    std::vector<std::array<float, 3>> local;
    for (const auto& zyx : clicked) local.push_back(window.to_window(zyx));
    const Mask kept = clicked_components(above_zero(logits), local);
    for (std::size_t i = 0; i < logits.values.size(); ++i)
        if (logits.values[i] > 0 && !kept.values[i]) logits.values[i] = -1;
    const Region extent = window.extent_above_zero(logits, {});
    auto [region, values] = grid.nearest(window.part(extent, 1), part_of(logits, extent));
    Region wider = region;
    for (const auto& zyx : clicked) {
        Region voxel;
        for (int a = 0; a < 3; ++a) voxel.start[a] = static_cast<std::int64_t>(zyx[a]), voxel.stop[a] = voxel.start[a] + 1;
        wider = union_of(&wider, &voxel);
    }
    Logits mask{region, std::move(values)};
    if (!(wider == region)) mask = {wider, spread(mask, wider)};
    return mask;
}

}  // namespace

ObjectState MaskProjector::project(const Call& call, const ObjectState& state, const Point* click, const Window& window,
                                   const Window& grid, const Grid<float>& logits) {
    const ObjectPrompts& prompts = state.prompts;
    const NetworkImage& source = call.image.source;
    const double began_s = now_s();
    const bool is_nearest = source.takes_nearest && source.is_on_grid(grid);
    Logits mask;
    bool is_smooth = true;
    if (is_nearest) {
        mask = on_nearest_voxels(*source.grid, grid, logits, clicked_voxels(prompts));
        is_smooth = resample.seconds(count_of(mask.region.shape())) <= call.deadline.left_s();
    } else {
        const Region extent = grid.extent_above_zero(logits, clicked_voxels(prompts));
        const Window part = grid.part(extent, 1);
        mask.region = part.inside(call.shape());
        is_smooth = resample.seconds(count_of(mask.region.shape())) <= call.deadline.left_s();
        mask.values = is_smooth ? part.back(part_of(logits, extent), call.shape())
                                : part.nearest(part_of(logits, extent), call.shape());
    }
    if (is_smooth) {
        if (!is_nearest) keep_clicked_components(mask, prompts);
        enforce_clicks(mask, prompts);
        if (click && state.logits) mask = apply_click(scope_of(*click, prompts, call.image.geometry()), *state.logits, mask);
    } else {
        call.skipped("smooth borders; the mask is as coarse as its window");
    }
    enforce_clicks(mask, prompts);  // also those that say the opposite of the mask before
    if (prompts.box && prompts.points.empty() && is_thin(*prompts.box, window))
        mask = answer_thin_box(*prompts.box, call.image.geometry(), mask);
    if (is_smooth) resample.measure(count_of(mask.region.shape()), now_s() - began_s);
    return {prompts, window, std::make_shared<const Logits>(std::move(mask)), false};
}

}  // namespace gstk::impl
