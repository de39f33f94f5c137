// How often users read each live table file, as RocksDB samples it.

#include <vector>

#include "abi.h"
#include "rocksdb/db.h"
#include "rocksdb/metadata.h"
#include "support.h"

// As RocksDB's db/c.cc has it in 11.8.1.
struct rocksdb_t {
  ROCKSDB_NAMESPACE::DB* rep;
};

extern "C" {

uint8_t lz_file_reads(rocksdb_t* db, void* context, lz_file_reads_sink sink) noexcept {
  try {
    std::vector<ROCKSDB_NAMESPACE::LiveFileMetaData> files;
    db->rep->GetLiveFilesMetaData(&files);
    for (const auto& file : files) {
      sink(context, file.relative_filename.data(), file.relative_filename.size(), file.num_reads_sampled);
    }
    return 1;
  } catch (...) {
    return 0;
  }
}

}  // extern "C"
