#include "state.hpp"

#include <algorithm>
#include <limits>
#include <set>

#include "label_fusion.hpp"

namespace gstk::impl {
namespace {

constexpr std::size_t kHistorySteps = 1000, kHistoryMasks = 100;

// Keeps the masks of the latest states, and only the prompts of the others.
void drop_old_masks(std::vector<std::pair<std::int64_t, ObjectState>>& states, std::size_t limit_bytes) {
    std::size_t bytes = 0, masks = 0;
    for (auto entry = states.rbegin(); entry != states.rend(); ++entry) {
        ObjectState& state = entry->second;
        if (!state.logits) continue;
        if (bytes + state.size_bytes() > limit_bytes || masks == kHistoryMasks) {
            state = ObjectState{state.prompts, {}, nullptr, false};
        } else {
            bytes += state.size_bytes();
            ++masks;
        }
    }
}

}  // namespace

bool ObjectState::is_extended_by(const ObjectPrompts& longer) const {
    const auto& before = prompts.points;
    return logits && !is_fallback && longer.box == prompts.box && longer.is_novel == prompts.is_novel && longer.points.size() >= before.size() &&
           std::equal(before.begin(), before.end(), longer.points.begin());
}

ImageState::ImageState(NetworkImage prepared, const WindowPolicy& windows) : source(std::move(prepared)), policy(windows) {
    if (!source.grid) return;
    policy.training_window = [this](const Triple& zyx) { return source.training_window(zyx); };
    policy.min_mm = std::numeric_limits<double>::max();
    for (int a = 0; a < 3; ++a)
        policy.min_mm = std::min(policy.min_mm, source.grid->step()[a] * geometry().spacing_mm()[a]);
}

ObjectState ImageState::object(std::int64_t object_id) const {
    const auto entry = objects.find(object_id);
    return entry == objects.end() ? ObjectState{} : entry->second;
}

void ImageState::put(std::int64_t object_id, ObjectState state) {
    objects[object_id] = std::move(state);
    labels.reset();
}

void ImageState::remember(std::int64_t object_id, ObjectState state, std::size_t limit_bytes) {
    undone.clear();
    history.emplace_back(object_id, std::move(state));
    if (history.size() > kHistorySteps) history.erase(history.begin());
    drop_old_masks(history, limit_bytes);
}

void ImageState::take_back(std::int64_t object_id, ObjectState state, std::size_t limit_bytes) {
    undone.emplace_back(object_id, std::move(state));
    drop_old_masks(undone, limit_bytes);
}

Region ImageState::changed_by(const ObjectState& before, const ObjectState& after) const {
    std::vector<Region> reached;
    for (const Region* region : {before.region(), after.region()})
        if (region) reached.push_back(*region);
    Region changed = union_of(before.region(), after.region());
    std::set<std::int64_t> counted;
    while (!reached.empty()) {
        const Region place = reached.back();
        reached.pop_back();
        for (const auto& [object_id, state] : objects) {
            if (!state.logits || !intersects(*state.region(), place) || !counted.insert(object_id).second) continue;
            reached.push_back(*state.region());
            changed = union_of(&changed, state.region());
        }
    }
    return changed;
}

const Grid<std::uint16_t>& ImageState::label_map() {
    if (labels) return *labels;
    std::map<std::int64_t, ObjectLogits> masks;
    for (const auto& [object_id, state] : objects) {
        if (!state.logits) continue;
        ObjectLogits object{state.logits, {}, {}};
        for (const auto& p : state.prompts.points)
            if (p.foreground) object.clicks.push_back(p.zyx);
        if (state.prompts.box) object.box_centre = state.prompts.box->centre();
        masks.emplace(object_id, std::move(object));
    }
    labels = gstk::impl::label_map(geometry(), masks);
    return *labels;
}

}  // namespace gstk::impl
