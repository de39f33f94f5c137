// The struct behind rocksdb::Env of the rocksdb crate.
#pragma once

#include "rocksdb/env.h"

// As RocksDB's db/c.cc has it in 11.8.1; rocksdb_env_destroy deletes both `rep` and the struct.
struct rocksdb_env_t {
  ROCKSDB_NAMESPACE::Env* rep;
  bool is_default;
};
