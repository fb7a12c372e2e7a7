// Work on a grid by several threads, a slab of planes each.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <future>
#include <thread>

namespace gstk::impl {

// The slabs are always these, however many threads there are: sums over them do not depend on the machine.
constexpr std::int64_t kSlabs = 4;

// Calls `what(slab, first, last)` for each slab of planes 0 to `count`; threads 1 keeps to the calling one, 0 is free.
template <class What>
void in_slabs(std::int64_t count, int threads, What&& what) {
    const auto run = [&](std::int64_t slab) { what(slab, count * slab / kSlabs, count * (slab + 1) / kSlabs); };
    const auto cores = static_cast<std::int64_t>(threads > 0 ? threads : std::thread::hardware_concurrency());
    const std::int64_t workers = std::min(std::max<std::int64_t>(cores, 1), kSlabs);
    const auto work = [&](std::int64_t worker) {
        for (std::int64_t slab = worker; slab < kSlabs; slab += workers) run(slab);
    };
    std::array<std::future<void>, kSlabs> others;
    for (std::int64_t worker = 1; worker < workers; ++worker)
        others[static_cast<std::size_t>(worker)] = std::async(std::launch::async, work, worker);
    work(0);
    for (auto& other : others)
        if (other.valid()) other.get();
}

}  // namespace gstk::impl
