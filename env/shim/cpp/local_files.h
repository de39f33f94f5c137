// What RocksDB has open on the local disk: what is read of it, and what it can let go.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "chunk_heat.h"
#include "local_reads.h"
#include "rocksdb/file_system.h"

namespace lazurite {

using ROCKSDB_NAMESPACE::FSRandomAccessFile;

class RustRandomFile;

// Descriptors that are to be closed. Two lists are joined without memory: closing one under a reader would give it the bytes
// of whatever is opened next.
using OpenDescriptors = std::list<std::unique_ptr<FSRandomAccessFile>>;

// The reads of all local files; and the open files that can be let go, by path, and when users last read them.
//
// Letting a file go: it is published that it is read through Rust; then every reader that was inside leaves; then its
// descriptor is closed. Lock order: mutex_, then a file's own. Neither is held while readers are waited for.
class LocalFiles {
 public:
  LocalReads reads;

  // Files that are opened from now on can be let go while they are on the local disk.
  void KeepReleasable() noexcept { releasable_.store(true, std::memory_order_relaxed); }
  bool IsReleasable() const noexcept { return releasable_.load(std::memory_order_relaxed); }

  void Opened(const std::string& path, RustRandomFile* file);
  void Closed(const std::string& path, RustRandomFile* file) noexcept;

  // Has all releasable files that are open at `path` read through Rust, and closes their descriptors. False where one stays
  // open: Rust could not open the file, or a reader does not come back; what waits for a reader is closed at a later call, or
  // at a tick. Files that are read directly or by mmap, or were opened before KeepReleasable, are not known here.
  bool Release(const std::string& path);

  // Moves time on by one tick, and closes what was let go and whose readers have left since.
  void Tick() noexcept;
  uint32_t Now() const noexcept { return clock_.load(std::memory_order_relaxed); }

  // Ticks since `path` was opened here, or a user last read it; UINT32_MAX where it is not open.
  uint32_t Idle(const std::string& path);

  void Opened(const std::string& path, ChunkHeat* heat);
  void Closed(const std::string& path, ChunkHeat* heat) noexcept;

  // How often users' gets were noted in each chunk of `path`, whose counts are then halved so many times. Empty where there
  // are none. May throw.
  std::string TakeHeat(const std::string& path, unsigned halvings);

 private:
  // Closes `owners` where all readers leave within `limit`; else they are retired, with false.
  bool Close(OpenDescriptors owners, std::chrono::milliseconds limit) noexcept;

  std::atomic<bool> releasable_{false};
  std::atomic<uint32_t> clock_{1};
  std::mutex mutex_;
  std::unordered_map<std::string, std::vector<RustRandomFile*>> open_;
  // Of all open files.
  std::unordered_map<std::string, std::vector<ChunkHeat*>> heats_;
  // Let go, but a reader may be inside.
  OpenDescriptors retired_;
};

}  // namespace lazurite
