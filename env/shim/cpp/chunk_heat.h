// Which chunks of a file users look into on the local disk, by samples.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <string>

namespace lazurite {

class LocalFiles;

// A counter of a byte for each chunk of 64 KiB; where one is full, all are halved, so that what is read most stays apart. The
// memory is taken at the first note. Any thread may call it.
class ChunkHeat {
 public:
  static constexpr unsigned kChunkBits = 16;
  // Of a longer file (4 GiB) nothing is noted.
  static constexpr uint64_t kMaxChunks = uint64_t{1} << 16;

  // In the list of `files` from here to its end.
  ChunkHeat(LocalFiles& files, std::string path);
  ~ChunkHeat();
  ChunkHeat(const ChunkHeat&) = delete;
  ChunkHeat& operator=(const ChunkHeat&) = delete;

  // Notes a read of `n` bytes at `offset`, in its first and in its last chunk: without either it is no local one. `len` tells
  // the file's length, where that is asked for; 0 is unknown.
  template <typename Len>
  void Note(uint64_t offset, size_t n, Len&& len) noexcept {
    Counts* counts = counts_.load(std::memory_order_acquire);
    if (counts == nullptr) {
      counts = Begin(len());
      if (counts == nullptr) {
        return;
      }
    }
    const uint64_t first = offset >> kChunkBits;
    const uint64_t last = (offset + (n > 0 ? n - 1 : 0)) >> kChunkBits;
    counts->Add(first);
    if (last != first) {
      counts->Add(last);
    }
  }

  // Adds the counts to `sums`, a byte a chunk, then halves them so many times. May throw.
  void Take(unsigned halvings, std::string* sums) {
    Counts* counts = counts_.load(std::memory_order_acquire);
    if (counts == nullptr) {
      return;
    }
    sums->resize(std::max<size_t>(sums->size(), counts->chunks));
    for (size_t chunk = 0; chunk < counts->chunks; ++chunk) {
      const uint8_t count = counts->of[chunk].load(std::memory_order_relaxed);
      if (count != 0) {
        const unsigned sum = count + static_cast<unsigned char>((*sums)[chunk]);
        (*sums)[chunk] = static_cast<char>(std::min<unsigned>(sum, UINT8_MAX));
        if (halvings > 0) {
          counts->of[chunk].store(static_cast<uint8_t>(count >> std::min(halvings, 8u)), std::memory_order_relaxed);
        }
      }
    }
  }

 private:
  struct Counts {
    explicit Counts(size_t n) : chunks(n), of(new std::atomic<uint8_t>[n]()) {}

    // Two notes at one instant may count as one, and two that find a counter full may halve twice.
    void Add(uint64_t chunk) noexcept {
      if (chunk < chunks) {
        const uint8_t before = of[chunk].load(std::memory_order_relaxed);
        if (before == UINT8_MAX) {
          Halve();
        } else {
          of[chunk].store(static_cast<uint8_t>(before + 1), std::memory_order_relaxed);
        }
      }
    }

    // No more often than once in 128 samples, which are 8,000 reads.
    void Halve() noexcept {
      for (size_t chunk = 0; chunk < chunks; ++chunk) {
        const uint8_t count = of[chunk].load(std::memory_order_relaxed);
        of[chunk].store(static_cast<uint8_t>(count >> 1), std::memory_order_relaxed);
      }
    }

    const size_t chunks;
    const std::unique_ptr<std::atomic<uint8_t>[]> of;
  };

  // Null where the length is none, or memory ran out.
  Counts* Begin(uint64_t len) noexcept;

  LocalFiles& files_;
  const std::string path_;
  std::atomic<Counts*> counts_{nullptr};
};

}  // namespace lazurite
