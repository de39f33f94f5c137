// Counts reads of local files without a shared cache line.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace lazurite {

class LocalReads {
 public:
  void Add(uint64_t n) noexcept { shards_[Slot()].count.fetch_add(n, std::memory_order_relaxed); }

  // Reads that other threads make meanwhile may be missing.
  uint64_t Sum() const noexcept {
    uint64_t sum = 0;
    for (const Shard& shard : shards_) {
      sum += shard.count.load(std::memory_order_relaxed);
    }
    return sum;
  }

 private:
  static constexpr size_t kShards = 64;

  struct alignas(64) Shard {
    std::atomic<uint64_t> count{0};
  };

  // Threads take the shards in turn: up to kShards of them never meet.
  static size_t Slot() noexcept {
    static std::atomic<size_t> next{0};
    thread_local const size_t slot = next.fetch_add(1, std::memory_order_relaxed) % kShards;
    return slot;
  }

  Shard shards_[kShards];
};

}  // namespace lazurite
