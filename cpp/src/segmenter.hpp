// From an object's prompts to its mask: choose a window, encode it once, decode the prompts, adapt the window, project
// to the volume; mirrors gstk.session.segmenter.
#pragma once

#include <memory>
#include <optional>
#include <utility>

#include "embedding_cache.hpp"
#include "projection.hpp"
#include "timed_engine.hpp"

namespace gstk::impl {

// Segments the objects of one image at a time, and keeps the embeddings of its windows.
class ObjectSegmenter {
  public:
    // refine: whether the image corrects the network's logits; see image_refiner.hpp.
    ObjectSegmenter(std::shared_ptr<Engine> engine, std::size_t cache_bytes, bool refine)
        : engine(std::move(engine)), embeddings_(cache_bytes), refine_(refine) {}

    // Drops what is kept of an image.
    void forget();

    // The object after its prompts. Where they extend those before, each new click changes the mask there was.
    ObjectState update(const Call& call, const ObjectState& before, const ObjectPrompts& prompts);

    TimedEngine engine;
    std::int64_t encodes = 0, decodes = 0;  // runs of the network's halves so far

  private:
    ObjectState update_once(const Call& call, const ObjectState& state, const Point* click);
    std::pair<Window, Grid<float>> first_answer(const Call& call, const Window& window, const ObjectPrompts& prompts);
    Window refine_answer(const Call& call, const Window& window, const ObjectPrompts& prompts, Grid<float>& logits);
    Grid<float> decode_window(const Call& call, const Window& window, const ObjectPrompts& prompts);
    const Grid<float>& image_patch(const Call& call, const Window& window);
    double window_s(const Window& window) const;
    double clicks_s(const Call& call, const ObjectState& state, std::size_t clicks) const;

    EmbeddingCache embeddings_;
    MaskProjector projector_;
    const bool refine_;
    VoxelCost refine_cost_{2e-7};
    std::optional<std::pair<Window, Grid<float>>> patch_;  // the image in the window that was used last
};

}  // namespace gstk::impl
