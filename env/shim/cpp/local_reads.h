// Counts reads of local files, by what they are for, without a shared cache line.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>

#include "abi.h"

namespace lazurite {

class LocalReads {
 public:
  // Counts `n` reads of `bytes` in all, made by `read`, for an activity of Rust's numbers. One call in kSampled of a thread,
  // its first one included, is timed: two looks at a clock would cost each read a few per cent.
  template <typename Read>
  auto Count(uint8_t activity, uint64_t n, uint64_t bytes, Read&& read) noexcept(noexcept(read())) {
    Slots& slots = shards_[Slot()].by_activity[activity % LZ_ACTIVITIES];
    slots.reads.fetch_add(n, std::memory_order_relaxed);
    slots.bytes.fetch_add(bytes, std::memory_order_relaxed);
    thread_local uint32_t calls = 0;
    if (calls++ % kSampled != 0) {
      return read();
    }
    const auto begun = std::chrono::steady_clock::now();
    auto result = read();
    const auto took = std::chrono::steady_clock::now() - begun;
    slots.sampled.fetch_add(1, std::memory_order_relaxed);
    slots.sampled_nanos.fetch_add(std::chrono::nanoseconds(took).count(), std::memory_order_relaxed);
    return result;
  }

  // Reads that other threads make meanwhile may be missing.
  void Sum(lz_local_reads* sums) const noexcept {
    for (size_t activity = 0; activity < LZ_ACTIVITIES; ++activity) {
      lz_local_reads sum{};
      for (const Shard& shard : shards_) {
        const Slots& slots = shard.by_activity[activity];
        sum.reads += slots.reads.load(std::memory_order_relaxed);
        sum.bytes += slots.bytes.load(std::memory_order_relaxed);
        sum.sampled += slots.sampled.load(std::memory_order_relaxed);
        sum.sampled_nanos += slots.sampled_nanos.load(std::memory_order_relaxed);
      }
      sums[activity] = sum;
    }
  }

 private:
  static constexpr size_t kShards = 64;
  static constexpr uint32_t kSampled = 64;

  struct Slots {
    std::atomic<uint64_t> reads{0};
    std::atomic<uint64_t> bytes{0};
    std::atomic<uint64_t> sampled{0};
    std::atomic<uint64_t> sampled_nanos{0};
  };

  struct alignas(64) Shard {
    Slots by_activity[LZ_ACTIVITIES];
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
