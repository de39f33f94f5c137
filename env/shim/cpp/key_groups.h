// How keys name their key group, and RocksDB's options as its C API holds them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "rocksdb/options.h"
#include "rocksdb/slice.h"

// As RocksDB's db/c.cc has it in 11.8.1.
struct rocksdb_options_t {
  ROCKSDB_NAMESPACE::Options rep;
};

namespace lazurite {

// The first two bytes in big-endian order; what a shorter key lacks is taken for zeros.
inline uint32_t KeyGroup(const ROCKSDB_NAMESPACE::Slice& key) {
  const auto byte = [&](size_t i) { return i < key.size() ? static_cast<uint8_t>(key[i]) : uint8_t{0}; };
  return uint32_t{byte(0)} << 8 | byte(1);
}

}  // namespace lazurite
