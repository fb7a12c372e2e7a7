// What a session knows of an image: its objects, their prompts and masks; mirrors gstk.session.state.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "click_update.hpp"
#include "window.hpp"

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
    std::shared_ptr<const Volume> volume;
    IntensityRange range;
    WindowPolicy policy;
    std::map<std::int64_t, ObjectState> objects;
    std::vector<std::pair<std::int64_t, ObjectState>> history;  // what `undo` goes back to
    std::vector<std::pair<std::int64_t, ObjectState>> undone;   // what `redo` does again
    std::optional<Grid<std::uint16_t>> labels;

    const Geometry& geometry() const { return volume->geometry; }
    // An object, which may be new.
    ObjectState object(std::int64_t object_id) const;
    // Replaces an object.
    void put(std::int64_t object_id, ObjectState state);
    // Adds what `undo` goes back to, and forgets what was undone; masks beyond `limit_bytes` are dropped, the oldest
    // first.
    void remember(std::int64_t object_id, ObjectState state, std::size_t limit_bytes);
    // Object ids at all voxels, 0 elsewhere.
    const Grid<std::uint16_t>& label_map();
};

}  // namespace gstk::impl
