// Counts reads of local files, by what they are for, and the readers that are inside one, without a shared cache line.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "abi.h"

namespace lazurite {

class LocalReads {
  // Of the word that counts reads, the low bits count readers inside: one atomic operation at the begin of a read does both.
  static constexpr unsigned kCountBit = 16;
  static constexpr size_t kShards = 64;
  static constexpr uint32_t kSampled = 64;

  struct Slots {
    std::atomic<uint64_t> reads{0};
    std::atomic<uint64_t> bytes{0};
    std::atomic<uint64_t> sampled{0};
    std::atomic<uint64_t> sampled_nanos{0};
  };

 public:
  // A reader that is inside. Whoever took a file away before it came sees it leave; it finds that file gone.
  class Inside {
   public:
    // `n` reads for an activity of Rust's numbers are counted at once.
    Inside(LocalReads& reads, uint8_t activity, uint64_t n) noexcept : slots_(&reads.Of(activity)) {
      slots_->reads.fetch_add((n << kCountBit) + 1, std::memory_order_seq_cst);
    }
    Inside(Inside&& other) noexcept : slots_(std::exchange(other.slots_, nullptr)) {}
    Inside& operator=(Inside&&) = delete;
    ~Inside() {
      if (slots_ != nullptr) {
        slots_->reads.fetch_sub(1, std::memory_order_release);
      }
    }

    // Makes these reads, of `bytes` in all. As Count does.
    template <typename Read, typename Note>
    auto Make(uint64_t bytes, Read&& read, Note&& note) const noexcept(noexcept(read())) {
      return Timed(*slots_, bytes, std::forward<Read>(read), std::forward<Note>(note));
    }

    // The reads are made elsewhere.
    void Uncount(uint64_t n) const noexcept { slots_->reads.fetch_sub(n << kCountBit, std::memory_order_relaxed); }

   private:
    Slots* slots_;
  };

  // Counts `n` reads of `bytes` in all, made by `read`, for an activity of Rust's numbers. One call in kSampled of a thread,
  // its first one included, is timed: two looks at a clock would cost each read a few per cent. That one is noted too, by
  // `note`, which does not throw; the others are not held up by it.
  template <typename Read, typename Note>
  auto Count(uint8_t activity, uint64_t n, uint64_t bytes, Read&& read, Note&& note) noexcept(noexcept(read())) {
    Slots& slots = Of(activity);
    slots.reads.fetch_add(n << kCountBit, std::memory_order_relaxed);
    return Timed(slots, bytes, std::forward<Read>(read), std::forward<Note>(note));
  }

  // Reads that other threads make meanwhile may be missing.
  void Sum(lz_local_reads* sums) const noexcept {
    for (size_t activity = 0; activity < LZ_ACTIVITIES; ++activity) {
      lz_local_reads sum{};
      for (const Shard& shard : shards_) {
        const Slots& slots = shard.by_activity[activity];
        sum.reads += slots.reads.load(std::memory_order_relaxed) >> kCountBit;
        sum.bytes += slots.bytes.load(std::memory_order_relaxed);
        sum.sampled += slots.sampled.load(std::memory_order_relaxed);
        sum.sampled_nanos += slots.sampled_nanos.load(std::memory_order_relaxed);
      }
      sums[activity] = sum;
    }
  }

  // Waits until every reader that was inside has left; false where that takes longer. Each counter is seen empty once, so
  // who came before is gone, and who came since saw whatever was published before this call.
  bool Drained(std::chrono::milliseconds limit) const noexcept;

 private:
  struct alignas(64) Shard {
    Slots by_activity[LZ_ACTIVITIES];
  };

  // Threads take the shards in turn: up to kShards of them never meet.
  static size_t Slot() noexcept {
    static std::atomic<size_t> next{0};
    thread_local const size_t slot = next.fetch_add(1, std::memory_order_relaxed) % kShards;
    return slot;
  }

  Slots& Of(uint8_t activity) noexcept { return shards_[Slot()].by_activity[activity % LZ_ACTIVITIES]; }

  template <typename Read, typename Note>
  static auto Timed(Slots& slots, uint64_t bytes, Read&& read, Note&& note) noexcept(noexcept(read())) {
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
    note();
    return result;
  }

  Shard shards_[kShards];
};

}  // namespace lazurite
