// What a session knows of an image: its objects, their prompts and masks; mirrors gstk.session.state.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "click_update.hpp"
#include "network_image.hpp"

namespace gstk::impl {

// One object: its prompts, and what the network last made of them.
struct ObjectState {
    ObjectPrompts prompts;
    std::optional<Window> window;          // what the network saw
    std::shared_ptr<const Logits> logits;  // null before the first mask
    bool is_fallback = false;              // the mask is not the network's answer to all of the prompts

    const Region* region() const { return logits ? &logits->region : nullptr; }
    // Memory of the mask.
    std::size_t size_bytes() const { return logits ? logits->values.values.size() * sizeof(float) : 0; }
    // Whether these prompts begin with the object's own, so that its mask stays and the new clicks change it.
    bool is_extended_by(const ObjectPrompts& longer) const;
};

// Everything that belongs to one image; `set_image` replaces it whole.
struct ImageState {
    NetworkImage source;   // the volume, prepared for the network
    std::string warnings;  // what is probably not what the network was trained on, a sentence a line
    WindowPolicy policy;
    std::map<std::int64_t, ObjectState> objects;
    std::vector<std::pair<std::int64_t, ObjectState>> history;  // what `undo` goes back to
    std::vector<std::pair<std::int64_t, ObjectState>> undone;   // what `redo` does again
    std::optional<Grid<std::uint16_t>> labels;

    // An image without objects; where the network has a resolution, windows begin with the training's.
    ImageState(NetworkImage prepared, const WindowPolicy& windows);
    ImageState(const ImageState&) = delete;  // the policy refers to the source

    const Geometry& geometry() const { return source.geometry(); }
    // An object, which may be new.
    ObjectState object(std::int64_t object_id) const;
    // Replaces an object.
    void put(std::int64_t object_id, ObjectState state);
    // Adds what `undo` goes back to, and forgets what was undone. Of more than 1,000 changes the oldest are forgotten;
    // of their masks, those beyond `limit_bytes` or 100.
    void remember(std::int64_t object_id, ObjectState state, std::size_t limit_bytes);
    // Adds what `redo` does again, with the same limits of masks.
    void take_back(std::int64_t object_id, ObjectState state, std::size_t limit_bytes);
    // The region outside which the label map stays as it was when an object's mask became another: where masks overlap, the
    // change of one may decide about all of another; see `label_map` on clicks.
    Region changed_by(const ObjectState& before, const ObjectState& after) const;
    // Object ids at all voxels, 0 elsewhere.
    const Grid<std::uint16_t>& label_map();
};

}  // namespace gstk::impl
