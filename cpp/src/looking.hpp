// From prompts to a mask: which window, an encode where none was made, a decode, and what the click asked for of it;
// mirrors gstk.looking and gstk.placing.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "chain.hpp"
#include "embeddings.hpp"
#include "masks.hpp"
#include "timed_engine.hpp"
#include "window.hpp"

namespace gstk::impl {

// One object: what was said about it, and what the network last made of that.
struct ObjectState {
    ObjectPrompts prompts;
    std::optional<Window> window;
    std::shared_ptr<const Logits> logits;  // at the volume's voxels of its region
    bool guessed = false;                  // the mask is not the network's answer to all that was said
    std::shared_ptr<const Chain> chain;    // its answers in finer windows along the object, where one is too coarse

    // In how many windows a click is looked at: in a chain, mostly in two that overlap.
    double decodes_a_click() const { return chain ? 2 : 1; }
    // Memory of what the network made of it.
    std::size_t size_bytes() const;
    const Region* region() const { return logits ? &logits->region : nullptr; }
    // Whether its mask stays, and clicks that are new change it one after the other.
    bool goes_on_to(const ObjectPrompts& said) const;
    // How often it is looked at until it answers what was said.
    std::size_t looks_for(const ObjectPrompts& said) const;
};

// What one call looks at, until when, and what it did not do for want of time, a sentence each.
struct Task {
    const Volume& volume;
    const IntensityRange& range;
    const Framing& framing;
    std::vector<std::string>& given_up;
    bool chained = true;  // whether a chain of windows may be made where one is too coarse

    const Geometry& geometry() const { return volume.geometry; }
};

// Looks at images through an engine, and keeps the embeddings of one of them.
class Looker {
  public:
    // `refine`: whether the image and the clicks correct the network's logits; see refine.hpp.
    Looker(std::shared_ptr<Engine> engine, std::optional<LatencyModel> model, std::size_t cache_bytes, bool refine);

    // Drops what is held of an image.
    void forget();

    // An object after its prompts; where they go on from those before, its mask does too. `first_look`: the window that
    // was planned for it.
    ObjectState follow(const Task& task, const ObjectState& known, const ObjectPrompts& prompts,
                       const std::optional<Window>& first_look, const Deadline& deadline);

    // Seconds from the network's answer to a mask on the volume, about: its refinement, and the way back. `known`: the
    // object so far.
    double placing_s(const Task& task, const Window& window, const ObjectPrompts& prompts,
                     const ObjectState& known) const;

    // Seconds of all second looks until an object, as known so far, answers its prompts.
    double second_looks_s(const Window& window, const ObjectPrompts& prompts, const ObjectState& known) const;

    TimedEngine engine;
    std::int64_t encodes = 0, decodes = 0;  // runs of the network's halves so far

  private:
    ObjectState segment(const Task& task, const ObjectState& known, const Point* click, Deadline deadline);
    void second_look(const Task& task, const Window& window, const ObjectPrompts& prompts, Grid<float>& logits,
                     const Deadline& deadline);
    bool looks_again(std::size_t clicks, const ObjectPrompts& prompts) const;
    double again_s(const Window& window, bool cautious) const;
    std::shared_ptr<const Chain> chained(const Task& task, const Window& window, const ObjectPrompts& prompts,
                                         const Grid<float>& logits, const Deadline& deadline);
    std::shared_ptr<const Chain> corrected(const Task& task, const Chain& chain, const ObjectPrompts& prompts,
                                           const Point& click, const Deadline& deadline);
    ObjectState placed(const Task& task, const ObjectState& known, const Point* click, const Window& window,
                       Grid<float> logits, std::shared_ptr<const Chain> chain, const Deadline& deadline);
    Window refined(const Task& task, const Window& window, const ObjectPrompts& prompts, Grid<float>& logits,
                   const Chain* chain, const Deadline& deadline);
    Window affordable(const Task& task, const Window& window, const Deadline& deadline);
    double cautious_s(const Window& window) const;
    double clicks_s(const ObjectState& known, std::size_t clicks) const;
    Grid<float> look(const Task& task, const Window& window, const NetworkPoints& points, const Deadline& deadline);
    const Grid<float>& seen(const Task& task, const Window& window);

    EmbeddingCache embeddings_;
    const bool refine_;
    std::optional<std::pair<Window, Grid<float>>> latest_;  // the window seen last
    double back_s_;                                         // of a voxel of the volume on the mask's way back
    double refine_s_;                                       // of a voxel that is refined
};

}  // namespace gstk::impl
