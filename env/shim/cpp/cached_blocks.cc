// Which blocks of table files RocksDB's block cache holds.

#include <cstring>
#include <string>
#include <unordered_map>

#include "abi.h"
// Not public: how RocksDB 11.8.1 makes the key of a block from the unique id of its file.
#include "cache/cache_key.h"
#include "rocksdb/advanced_cache.h"
#include "rocksdb/db.h"
#include "rocksdb/table.h"
#include "table/unique_id_impl.h"

// As RocksDB's db/c.cc has it in 11.8.1.
struct rocksdb_t {
  ROCKSDB_NAMESPACE::DB* rep;
};

namespace {

using ROCKSDB_NAMESPACE::BlockBasedTableOptions;
using ROCKSDB_NAMESPACE::Cache;
using ROCKSDB_NAMESPACE::CacheEntryRole;
using ROCKSDB_NAMESPACE::CacheKey;
using ROCKSDB_NAMESPACE::OffsetableCacheKey;
using ROCKSDB_NAMESPACE::Slice;
using ROCKSDB_NAMESPACE::UniqueId64x3;

constexpr size_t kIdLen = 24;

// A key is a word that all blocks of a file share, and one that the offset of the block is added to, by exclusive or.
struct Key {
  uint64_t file;
  uint64_t offset;
};
static_assert(sizeof(CacheKey) == sizeof(Key));

struct File {
  size_t index;
  uint64_t offset;
};

Key ToKey(const Slice& slice) {
  Key key;
  std::memcpy(&key, slice.data(), sizeof(key));
  return key;
}

}  // namespace

extern "C" {

uint8_t lz_cached_blocks(rocksdb_t* db, const char* unique_ids, size_t count, void* context,
                         lz_cached_block_sink sink) noexcept {
  try {
    std::unordered_map<uint64_t, File> files;
    files.reserve(count);
    for (size_t i = 0; i < count; ++i) {
      UniqueId64x3 id;
      if (ROCKSDB_NAMESPACE::DecodeUniqueIdBytes(std::string(unique_ids + i * kIdLen, kIdLen), &id).ok()) {
        ROCKSDB_NAMESPACE::ExternalUniqueIdToInternal(&id);
        const Key base = ToKey(OffsetableCacheKey::FromInternalUniqueId(&id).WithOffset(0).AsSlice());
        files.emplace(base.file, File{i, base.offset});
      }
    }
    const auto options = db->rep->GetOptions();
    const auto* table = options.table_factory->GetOptions<BlockBasedTableOptions>();
    if (table == nullptr || table->block_cache == nullptr) {
      return 1;
    }
    table->block_cache->ApplyToAllEntries(
        [&](const Slice& slice, Cache::ObjectPtr, size_t charge, const Cache::CacheItemHelper* helper) {
          if (helper == nullptr || helper->role != CacheEntryRole::kDataBlock || slice.size() != sizeof(Key)) {
            return;
          }
          const Key key = ToKey(slice);
          if (const auto found = files.find(key.file); found != files.end()) {
            // The two low bits of the offset are not in the key: a block has five bytes at least.
            sink(context, found->second.index, (key.offset ^ found->second.offset) << 2, charge);
          }
        },
        {});
    return 1;
  } catch (...) {
    return 0;
  }
}

}  // extern "C"
