#include "projection.hpp"

#include "thin_boxes.hpp"

namespace gstk::impl {
namespace {

// What says how far the click, one of the prompts, may change the mask.
ClickScope scope_of(const Point& click, const ObjectPrompts& prompts, const Geometry& geometry) {
    ClickScope scope{click, {}, geometry.spacing_mm()};
    for (const auto& p : prompts.points)
        if (p.foreground != click.foreground) scope.opposite.push_back(p.zyx);
    if (prompts.box && !click.foreground) scope.opposite.push_back(prompts.box->centre());
    return scope;
}

}  // namespace

ObjectState MaskProjector::project(const Call& call, const ObjectState& state, const Point* click, const Window& window,
                                   const Window& grid, const Grid<float>& logits) {
    const ObjectPrompts& prompts = state.prompts;
    std::vector<Triple> clicked;  // voxels that must be in the region, whatever the network says there
    for (const auto& p : prompts.points)
        if (p.foreground) clicked.push_back(as_triple(p.zyx));
    const double began_s = now_s();
    const Region extent = grid.extent_above_zero(logits, clicked);
    const Window part = grid.part(extent, 1);
    const Region region = part.inside(call.shape());
    const bool is_smooth = resample.seconds(count_of(region.shape())) <= call.deadline.left_s();
    Logits mask{region, is_smooth ? part.back(part_of(logits, extent), call.shape())
                                  : part.nearest(part_of(logits, extent), call.shape())};
    if (is_smooth) {
        keep_clicked_components(mask, prompts);
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
