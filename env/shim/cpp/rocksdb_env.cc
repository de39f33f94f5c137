// Makes the rocksdb_env_t that the rocksdb crate takes, and the counters that Rust reads.

#include "rocksdb_env.h"

#include "file_system.h"

struct lz_counters {
  std::shared_ptr<lazurite::LocalReads> local_reads;
};

extern "C" {

rocksdb_env_t* lz_rocksdb_env_create(lz_env* env, lz_counters** counters) noexcept {
  try {
    // From here on `env` is released exactly once: by the last file system or directory that holds it.
    std::shared_ptr<lz_env> shared(env, lazurite::FreeWith<lz_env_release>());
    auto reads = std::make_shared<lazurite::LocalReads>();
    auto result = std::make_unique<rocksdb_env_t>();
    auto counts = std::make_unique<lz_counters>(lz_counters{reads});
    auto fs = std::make_shared<lazurite::EnvFileSystem>(std::move(shared), std::move(reads));
    result->rep = ROCKSDB_NAMESPACE::NewCompositeEnv(std::move(fs)).release();
    result->is_default = false;
    *counters = counts.release();
    return result.release();
  } catch (...) {
    return nullptr;
  }
}

void lz_counters_local_reads(const lz_counters* counters, lz_local_reads* sums) noexcept {
  counters->local_reads->Sum(sums);
}

void lz_counters_free(lz_counters* counters) noexcept { delete counters; }

}  // extern "C"
