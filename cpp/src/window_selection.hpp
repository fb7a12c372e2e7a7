// Chooses the window for an object, from its prompts and from its mask; mirrors gstk.session.window_selection.
#pragma once

#include <optional>
#include <vector>

#include "prompts.hpp"
#include "window.hpp"

namespace gstk::impl {

// The first window for an object's prompts.
Window first_window(const Geometry& geometry, const ObjectPrompts& prompts, const WindowPolicy& policy);

// A window that suits the mask better: wider where the mask is cut off at its faces, narrower where the mask is small in
// it; nothing where the mask sits well.
std::optional<Window> adapt_window(const Geometry& geometry, const Window& window, const Grid<float>& logits,
                                   const ObjectPrompts& prompts, const WindowPolicy& policy);

// Windows of the same field with fewer voxels, the most first, each of √2 times fewer than the one before.
std::vector<Window> coarser_windows(const Geometry& geometry, const Window& window, const WindowPolicy& policy);

}  // namespace gstk::impl
