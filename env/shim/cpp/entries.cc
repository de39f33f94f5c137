// A walk over entries, in one call for each: what the C API takes four for, as each goes through a virtual function or two.

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "abi.h"
#include "rocksdb/db.h"
#include "rocksdb/iterator.h"
#include "rocksdb/options.h"
#include "rocksdb/snapshot.h"

using ROCKSDB_NAMESPACE::ColumnFamilyHandle;
using ROCKSDB_NAMESPACE::DB;
using ROCKSDB_NAMESPACE::Iterator;
using ROCKSDB_NAMESPACE::ManagedSnapshot;
using ROCKSDB_NAMESPACE::ReadOptions;
using ROCKSDB_NAMESPACE::Slice;

// Both as RocksDB's db/c.cc has them in 11.8.1.
struct rocksdb_t {
  DB* rep;
};
struct rocksdb_column_family_handle_t {
  ColumnFamilyHandle* rep;
  bool immortal;
};

namespace {

// The options of an iterator point to its bounds, so it stays where it is.
struct Part {
  std::string lower_bytes, upper_bytes;
  Slice lower, upper;
  std::unique_ptr<Iterator> iterator;
};

Slice ToSlice(const lz_slice& slice) { return Slice(slice.data, slice.len); }

}  // namespace

struct lz_entries {
  // The one that is walked over; null before the first and after the last.
  Iterator* at = nullptr;
  size_t next = 0;
  bool thrown = false;
  // Only where there are several parts: one iterator alone is of one moment.
  std::unique_ptr<ManagedSnapshot> moment;
  std::deque<Part> parts;
  // Of an error nothing is told that a later part could take back.
  const Iterator* failed = nullptr;

  // Goes to the first entry of the parts to come. Out of line: once for each part.
  bool NextPart();
};

__attribute__((noinline)) bool lz_entries::NextPart() {
  while (failed == nullptr) {
    if (at != nullptr && !at->status().ok()) {
      failed = at;
      break;
    }
    if (next == parts.size()) {
      break;
    }
    at = parts[next++].iterator.get();
    at->SeekToFirst();
    if (at->Valid()) {
      return true;
    }
  }
  at = nullptr;
  return false;
}

extern "C" {

lz_entries* lz_entries_open(rocksdb_t* db, const lz_span* spans, size_t count, uint8_t async_io) noexcept {
  try {
    auto entries = std::make_unique<lz_entries>();
    ReadOptions options;
    options.async_io = async_io != 0;
    if (count > 1) {
      entries->moment = std::make_unique<ManagedSnapshot>(db->rep);
      options.snapshot = entries->moment->snapshot();
    }
    for (size_t i = 0; i < count; ++i) {
      Part& part = entries->parts.emplace_back();
      part.lower_bytes = ToSlice(spans[i].lower).ToString();
      part.upper_bytes = ToSlice(spans[i].upper).ToString();
      part.lower = part.lower_bytes;
      part.upper = part.upper_bytes;
      options.iterate_lower_bound = &part.lower;
      options.iterate_upper_bound = &part.upper;
      part.iterator.reset(db->rep->NewIterator(options, spans[i].column->rep));
    }
    return entries.release();
  } catch (...) {
    return nullptr;
  }
}

uint8_t lz_entries_next(lz_entries* entries, lz_entry* entry) noexcept {
  try {
    if (entries->at != nullptr) [[likely]] {
      entries->at->Next();
    }
    if (entries->at == nullptr || !entries->at->Valid()) [[unlikely]] {
      if (!entries->NextPart()) {
        return 0;
      }
    }
    const Slice key = entries->at->key();
    const Slice value = entries->at->value();
    entry->key = {key.data(), key.size()};
    entry->value = {value.data(), value.size()};
    return 1;
  } catch (...) {
    // RocksDB is not exception-safe: nothing is asked of the iterator any more.
    entries->thrown = true;
    entries->at = nullptr;
    entries->next = entries->parts.size();
    return 0;
  }
}

void lz_entries_error(const lz_entries* entries, void* context, lz_sink sink) noexcept {
  try {
    if (entries->thrown) {
      static constexpr char kText[] = "IO error: an exception was thrown while iterating; memory may have run out";
      sink(context, kText, sizeof(kText) - 1, 0);
    } else if (entries->failed != nullptr) {
      const std::string text = entries->failed->status().ToString();
      sink(context, text.data(), text.size(), 0);
    }
  } catch (...) {
    sink(context, "IO error", 8, 0);
  }
}

void lz_entries_free(lz_entries* entries) noexcept {
  try {
    delete entries;
  } catch (...) {
  }
}

}  // extern "C"
