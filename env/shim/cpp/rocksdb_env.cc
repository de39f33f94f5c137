// Makes the rocksdb_env_t that the rocksdb crate takes, and what Rust is told of the local files.

#include "rocksdb_env.h"

#include "file_system.h"

struct lz_local_files {
  std::shared_ptr<lazurite::LocalFiles> files;
};

extern "C" {

rocksdb_env_t* lz_rocksdb_env_create(lz_env* env, lz_local_files** files) noexcept {
  try {
    // From here on `env` is released exactly once: by the last file system, file or directory that holds it.
    std::shared_ptr<lz_env> shared(env, lazurite::FreeWith<lz_env_release>());
    auto local = std::make_shared<lazurite::LocalFiles>();
    auto result = std::make_unique<rocksdb_env_t>();
    auto handle = std::make_unique<lz_local_files>(lz_local_files{local});
    auto fs = std::make_shared<lazurite::EnvFileSystem>(std::move(shared), std::move(local));
    result->rep = ROCKSDB_NAMESPACE::NewCompositeEnv(std::move(fs)).release();
    result->is_default = false;
    *files = handle.release();
    return result.release();
  } catch (...) {
    return nullptr;
  }
}

void lz_local_files_reads(const lz_local_files* files, lz_local_reads* sums) noexcept {
  files->files->reads.Sum(sums);
}

void lz_local_files_keep_releasable(const lz_local_files* files) noexcept { files->files->KeepReleasable(); }

uint8_t lz_local_files_release(const lz_local_files* files, lz_slice path) noexcept {
  try {
    return files->files->Release(std::string(path.data, path.len)) ? 1 : 0;
  } catch (...) {
    return 0;
  }
}

uint32_t lz_local_files_idle(const lz_local_files* files, lz_slice path) noexcept {
  try {
    return files->files->Idle(std::string(path.data, path.len));
  } catch (...) {
    return 0;
  }
}

uint8_t lz_local_files_take_heat(const lz_local_files* files, lz_slice path, uint32_t halvings, void* context,
                                 lz_sink sink) noexcept {
  try {
    const std::string counts = files->files->TakeHeat(std::string(path.data, path.len), halvings);
    return sink(context, counts.data(), counts.size(), 0);
  } catch (...) {
    return 0;
  }
}

void lz_local_files_tick(const lz_local_files* files) noexcept { files->files->Tick(); }

void lz_local_files_free(lz_local_files* files) noexcept { delete files; }

}  // extern "C"
