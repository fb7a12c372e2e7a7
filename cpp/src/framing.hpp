// Which window suits an object: from what was said about it, and from its mask; mirrors gstk.framing.
#pragma once

#include <optional>

#include "prompts.hpp"
#include "window.hpp"

namespace gstk::impl {

// The first window for an object's prompts.
Window first_window(const Geometry& geometry, const ObjectPrompts& prompts, const Framing& framing);

// One that suits its mask better: wider where the mask runs out of it, narrower where it is lost in it; nothing where
// it sits well.
std::optional<Window> better_window(const Geometry& geometry, const Window& window, const Grid<float>& logits,
                                    const ObjectPrompts& prompts, const Framing& framing);

}  // namespace gstk::impl
