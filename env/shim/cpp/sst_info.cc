// What a snapshot must know of an SST file, from the file itself.

#include <cstring>

#include "rocksdb/options.h"
#include "rocksdb/sst_file_reader.h"
#include "rocksdb/table.h"
#include "rocksdb/unique_id.h"
#include "rocksdb_env.h"
#include "support.h"

namespace lazurite {
namespace {

using ROCKSDB_NAMESPACE::Status;

Status ReadInfo(ROCKSDB_NAMESPACE::Env* env, const std::string& path, lz_sst_properties* out) {
  ROCKSDB_NAMESPACE::BlockBasedTableOptions table;
  table.no_block_cache = true;  // the reader lives for this one question
  ROCKSDB_NAMESPACE::Options options;
  options.env = env;
  options.table_factory.reset(ROCKSDB_NAMESPACE::NewBlockBasedTableFactory(table));
  ROCKSDB_NAMESPACE::SstFileReader reader(options);
  Status s = reader.Open(path);
  if (s.ok()) {
    s = env->GetFileSize(path, &out->file_len);
  }
  if (!s.ok()) {
    return s;
  }
  const auto properties = reader.GetTableProperties();
  std::string id;
  s = GetExtendedUniqueIdFromTableProperties(*properties, &id);
  if (!s.ok()) {
    return s;
  }
  if (id.size() != sizeof(out->unique_id)) {
    return Status::Corruption("unique id of an unknown size", path);
  }
  std::memcpy(out->unique_id, id.data(), id.size());
  // Files of older versions do not say where their tail begins, but the data blocks come first in all of them. A file
  // without data blocks is all tail, and both are 0.
  const uint64_t tail = properties->tail_start_offset != 0 ? properties->tail_start_offset : properties->data_size;
  if (tail > out->file_len) {
    return Status::Corruption("the tail begins past the end of the file", path);
  }
  out->tail_offset = tail;
  out->num_entries = properties->num_entries;
  out->num_deletions = properties->num_deletions;
  out->num_range_deletions = properties->num_range_deletions;
  return s;
}

lz_code ToCode(const Status& s) {
  if (s.IsNotFound() || s.IsPathNotFound()) {
    return LZ_NOT_FOUND;
  }
  if (s.IsCorruption()) {
    return LZ_CORRUPTION;
  }
  return s.IsNotSupported() ? LZ_UNSUPPORTED : LZ_IO;
}

}  // namespace
}  // namespace lazurite

extern "C" int32_t lz_sst_info(rocksdb_env_t* env, lz_slice path, lz_sst_properties* out, void* context,
                               lz_sink sink) noexcept {
  try {
    const ROCKSDB_NAMESPACE::Status s = lazurite::ReadInfo(env->rep, std::string(path.data, path.len), out);
    if (s.ok()) {
      return LZ_OK;
    }
    const std::string text = s.ToString();
    sink(context, text.data(), text.size(), 0);
    return lazurite::ToCode(s);
  } catch (...) {
    return LZ_IO;
  }
}
