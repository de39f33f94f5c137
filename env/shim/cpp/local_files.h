// What RocksDB has open on the local disk: who reads it, and how it is let go.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "rocksdb/file_system.h"

namespace lazurite {

using ROCKSDB_NAMESPACE::FSRandomAccessFile;

class RustRandomFile;

// Counts reads of local files, and the readers that are inside one, without a shared cache line.
class LocalReads {
  // The high bits count reads, the low ones readers inside: one atomic operation at the begin of a read does both.
  static constexpr unsigned kCountBit = 16;

  struct alignas(64) Shard {
    std::atomic<uint64_t> word{0};
  };

 public:
  // A reader that is inside. Whoever took a file away before it came sees it leave; it finds that file gone.
  class Inside {
   public:
    Inside(LocalReads& reads, uint64_t n) noexcept : shard_(&reads.shards_[Slot()]) {
      shard_->word.fetch_add((n << kCountBit) + 1, std::memory_order_seq_cst);
    }
    Inside(Inside&& other) noexcept : shard_(std::exchange(other.shard_, nullptr)) {}
    Inside& operator=(Inside&&) = delete;
    ~Inside() {
      if (shard_ != nullptr) {
        shard_->word.fetch_sub(1, std::memory_order_release);
      }
    }

   private:
    Shard* shard_;
  };

  void Add(uint64_t n) noexcept { shards_[Slot()].word.fetch_add(n << kCountBit, std::memory_order_relaxed); }

  // Reads that other threads make meanwhile may be missing.
  uint64_t Sum() const noexcept {
    uint64_t sum = 0;
    for (const Shard& shard : shards_) {
      sum += shard.word.load(std::memory_order_relaxed) >> kCountBit;
    }
    return sum;
  }

  // Waits until every reader that was inside has left; false where that takes longer. Each shard is seen empty once, so
  // who came before is gone, and who came since saw whatever was published before this call.
  bool Drained(std::chrono::milliseconds limit) const noexcept;

 private:
  static constexpr size_t kShards = 64;

  // Threads take the shards in turn: up to kShards of them never meet.
  static size_t Slot() noexcept {
    static std::atomic<size_t> next{0};
    thread_local const size_t slot = next.fetch_add(1, std::memory_order_relaxed) % kShards;
    return slot;
  }

  Shard shards_[kShards];
};

// The open files that can be read in two ways, by path, and when users last read them.
//
// Letting a file go: it is published that it is read through Rust; then every reader that was inside leaves; then its
// descriptor is closed. Lock order: mutex_, then a file's own. Neither is held while readers are waited for.
class LocalFiles {
 public:
  LocalReads reads;

  // Files that are opened on the local disk from now on can be let go.
  void KeepReleasable() noexcept { releasable_.store(true, std::memory_order_relaxed); }
  bool IsReleasable() const noexcept { return releasable_.load(std::memory_order_relaxed); }

  void Opened(const std::string& path, RustRandomFile* file);
  void Closed(const std::string& path, RustRandomFile* file) noexcept;

  // Has all open files of `path` read through Rust, and closes their descriptors. False where one stays open: Rust could
  // not open the file, or a reader does not come back; those descriptors are closed at a later call.
  bool Release(const std::string& path);

  // Moves time on by one tick.
  void Tick() noexcept { clock_.fetch_add(1, std::memory_order_relaxed); }
  uint32_t Now() const noexcept { return clock_.load(std::memory_order_relaxed); }

  // Ticks since `path` was opened here, or a user last read it; UINT32_MAX where it is not open.
  uint32_t Idle(const std::string& path);

 private:
  std::atomic<bool> releasable_{false};
  std::atomic<uint32_t> clock_{1};
  std::mutex mutex_;
  std::unordered_map<std::string, std::vector<RustRandomFile*>> open_;
  // Let go, but a reader may be inside.
  std::vector<std::unique_ptr<FSRandomAccessFile>> retired_;
};

}  // namespace lazurite
