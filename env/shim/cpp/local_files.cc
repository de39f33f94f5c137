#include "local_files.h"

#include <algorithm>
#include <thread>

#include "random_file.h"

namespace lazurite {

bool LocalReads::Drained(std::chrono::milliseconds limit) const noexcept {
  constexpr uint64_t kInside = (uint64_t{1} << kCountBit) - 1;
  constexpr int kSpins = 100;  // a read of the page cache ends sooner
  const auto until = std::chrono::steady_clock::now() + limit;
  for (const Shard& shard : shards_) {
    for (const Slots& slots : shard.by_activity) {
      for (int i = 0; (slots.reads.load(std::memory_order_seq_cst) & kInside) != 0; ++i) {
        if (std::chrono::steady_clock::now() > until) {
          return false;
        }
        if (i < kSpins) {
          std::this_thread::yield();
        } else {
          std::this_thread::sleep_for(std::chrono::microseconds(20));
        }
      }
    }
  }
  return true;
}

namespace {

template <typename T>
void Remove(std::unordered_map<std::string, std::vector<T*>>& map, const std::string& path, T* what) noexcept {
  const auto found = map.find(path);
  if (found == map.end()) {
    return;
  }
  auto& all = found->second;
  all.erase(std::remove(all.begin(), all.end(), what), all.end());
  if (all.empty()) {
    map.erase(found);
  }
}

}  // namespace

ChunkHeat::ChunkHeat(LocalFiles& files, std::string path) : files_(files), path_(std::move(path)) {
  files_.Opened(path_, this);
}

ChunkHeat::~ChunkHeat() {
  files_.Closed(path_, this);
  delete counts_.load(std::memory_order_acquire);
}

ChunkHeat::Counts* ChunkHeat::Begin(uint64_t len) noexcept {
  constexpr uint64_t kChunk = uint64_t{1} << kChunkBits;
  if (len == 0 || len > kMaxChunks * kChunk) {
    return nullptr;
  }
  try {
    auto made = std::make_unique<Counts>(static_cast<size_t>((len + kChunk - 1) / kChunk));
    Counts* there = nullptr;
    // The first one stays.
    if (counts_.compare_exchange_strong(there, made.get(), std::memory_order_acq_rel)) {
      there = made.release();
    }
    return there;
  } catch (...) {
    return nullptr;
  }
}

void LocalFiles::Opened(const std::string& path, RustRandomFile* file) {
  const std::lock_guard<std::mutex> lock(mutex_);
  open_[path].push_back(file);
}

void LocalFiles::Closed(const std::string& path, RustRandomFile* file) noexcept {
  const std::lock_guard<std::mutex> lock(mutex_);
  Remove(open_, path, file);
}

void LocalFiles::Opened(const std::string& path, ChunkHeat* heat) {
  const std::lock_guard<std::mutex> lock(mutex_);
  heats_[path].push_back(heat);
}

void LocalFiles::Closed(const std::string& path, ChunkHeat* heat) noexcept {
  const std::lock_guard<std::mutex> lock(mutex_);
  Remove(heats_, path, heat);
}

std::string LocalFiles::TakeHeat(const std::string& path, unsigned halvings) {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::string sums;
  if (const auto found = heats_.find(path); found != heats_.end()) {
    for (ChunkHeat* heat : found->second) {
      heat->Take(halvings, &sums);
    }
  }
  return sums;
}

bool LocalFiles::Release(const std::string& path) {
  constexpr std::chrono::milliseconds kPatience(1000);
  OpenDescriptors owners;
  bool all = true;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    owners.swap(retired_);
    if (const auto found = open_.find(path); found != open_.end()) {
      for (RustRandomFile* file : found->second) {
        all = file->LetGo(&owners) && all;
      }
    }
  }
  return Close(std::move(owners), kPatience) && all;
}

bool LocalFiles::Close(OpenDescriptors owners, std::chrono::milliseconds limit) noexcept {
  if (owners.empty() || reads.Drained(limit)) {
    return true;  // the descriptors are closed here
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  retired_.splice(retired_.end(), owners);
  return false;
}

void LocalFiles::Tick() noexcept {
  constexpr std::chrono::milliseconds kGlance(2);  // there is another tick
  clock_.fetch_add(1, std::memory_order_relaxed);
  OpenDescriptors owners;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    owners.swap(retired_);
  }
  Close(std::move(owners), kGlance);
}

uint32_t LocalFiles::Idle(const std::string& path) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = open_.find(path);
  uint32_t idle = UINT32_MAX;
  if (found != open_.end()) {
    for (const RustRandomFile* file : found->second) {
      // A reader may take the tick that comes between the two.
      const uint32_t used = file->LastUsed();
      const uint32_t now = Now();
      idle = std::min(idle, now > used ? now - used : 0);
    }
  }
  return idle;
}

}  // namespace lazurite
