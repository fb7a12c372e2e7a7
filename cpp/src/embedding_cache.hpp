// Embeddings of the windows that were used last, bounded in bytes; mirrors gstk.session.embedding_cache.
#pragma once

#include <algorithm>
#include <list>
#include <memory>
#include <utility>

#include "engine.hpp"
#include "window.hpp"

namespace gstk::impl {

constexpr std::size_t kDefaultCacheBytes = std::size_t{2} << 30;

// Window → embedding, of one image. The one that was not used for longest goes first.
class EmbeddingCache {
    using Entries = std::list<std::pair<Window, std::shared_ptr<const Embedding>>>;  // the oldest first

    template <class List>
    static auto find(List& entries, const Window& window) {
        return std::find_if(entries.begin(), entries.end(), [&](const auto& entry) { return entry.first == window; });
    }

  public:
    // limit_bytes: what the embeddings may take together; the newest stays even where it alone takes more.
    explicit EmbeddingCache(std::size_t limit_bytes) : limit_bytes_(limit_bytes) {}

    std::size_t size_bytes() const { return size_bytes_; }
    bool holds(const Window& window) const { return find(held_, window) != held_.end(); }

    // The embedding of a window, which is then the newest; null where it is not held.
    std::shared_ptr<const Embedding> get(const Window& window) {
        const auto found = find(held_, window);
        if (found == held_.end()) return nullptr;
        held_.splice(held_.end(), held_, found);
        return found->second;
    }

    // Holds the embedding of a window that is not held yet, and drops the oldest until all fit.
    void put(const Window& window, std::shared_ptr<const Embedding> embedding) {
        size_bytes_ += embedding->size_bytes;
        held_.emplace_back(window, std::move(embedding));
        while (size_bytes_ > limit_bytes_ && held_.size() > 1) {
            size_bytes_ -= held_.front().second->size_bytes;
            held_.pop_front();
        }
    }

    void clear() {
        held_.clear();
        size_bytes_ = 0;
    }

  private:
    const std::size_t limit_bytes_;
    std::size_t size_bytes_ = 0;
    Entries held_;
};

}  // namespace gstk::impl
