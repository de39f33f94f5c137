#include "file_system.h"

#include "random_file.h"
#include "stream_files.h"

namespace lazurite {

using ROCKSDB_NAMESPACE::FSSupportedOps;

namespace {

struct Children {
  std::vector<std::string>* names;
  bool files_only;
};

uint8_t PushChild(void* context, const char* data, size_t len, uint8_t is_dir) noexcept {
  auto* children = static_cast<Children*>(context);
  try {
    if (is_dir == 0 || !children->files_only) {
      children->names->emplace_back(data, len);
    }
    return 1;
  } catch (...) {
    return 0;
  }
}

// Asked whether something is there, RocksDB wants NotFound and not PathNotFound. Only what the Env calls missing is: on
// POSIX a file that may not be looked at counts as missing too, and DB::Open then creates a new database over the old.
IOStatus ToPresence(const lz_status& status) {
  return status.code == LZ_NOT_FOUND ? IOStatus::NotFound() : ToIOStatus(status);
}

}  // namespace

std::optional<std::string> EnvFileSystem::NativePath(const std::string& path) const {
  std::string native;
  if (lz_env_native_path(env_.get(), ToSlice(path), &native, AssignString) == 0) {
    return std::nullopt;
  }
  return native;
}

template <typename Open>
std::optional<IOStatus> EnvFileSystem::OpenHere(const std::string& path, Open&& open) const {
  // A file that is not found may have left between the look and the opening. Where Rust says that it is here all the same, it
  // may have come back meanwhile.
  constexpr int kTries = 3;
  IOStatus s;
  for (int i = 0; i < kTries; ++i) {
    const auto native = NativePath(path);
    if (!native) {
      return std::nullopt;
    }
    s = open(*native);
    if (!s.IsPathNotFound() && !s.IsNotFound()) {
      break;
    }
  }
  return s;
}

IOStatus EnvFileSystem::Stat(const std::string& path, lz_stat* out) const {
  lz_status status;
  lz_env_stat(env_.get(), ToSlice(path), out, &status);
  return ToIOStatus(status);
}

IOStatus EnvFileSystem::NewSequentialFile(const std::string& f, const FileOptions& options,
                                          std::unique_ptr<FSSequentialFile>* r, IODebugContext* dbg) {
  return Guarded([&] {
    r->reset();
    const auto here = OpenHere(
        f, [&](const std::string& native) { return target()->NewSequentialFile(native, options, r, dbg); });
    if (here) {
      return *here;
    }
    lz_status status;
    Handle<lz_sequential, lz_sequential_free> file(lz_env_open_sequential(env_.get(), ToSlice(f), &status));
    if (file != nullptr) {
      *r = std::make_unique<RustSequentialFile>(std::move(file));
    }
    return ToIOStatus(status);
  });
}

IOStatus EnvFileSystem::NewRandomAccessFile(const std::string& f, const FileOptions& options,
                                            std::unique_ptr<FSRandomAccessFile>* r, IODebugContext* dbg) {
  return Guarded([&] {
    r->reset();
    // Direct and mapped reads have needs of their own: such a file stays as it was opened.
    const bool releasable = files_->IsReleasable() && !options.use_direct_reads && !options.use_mmap_reads;
    const auto here = OpenHere(f, [&](const std::string& native) {
      if (releasable) {
        auto file = std::make_unique<RustRandomFile>(f, env_, nullptr, target_, files_);
        IOStatus s = file->OpenHere(native, options, dbg);
        if (s.ok()) {
          *r = std::move(file);
        }
        return s;
      }
      std::unique_ptr<FSRandomAccessFile> file;
      IOStatus s = target()->NewRandomAccessFile(native, options, &file, dbg);
      if (s.ok()) {
        *r = std::make_unique<LocalRandomFile>(f, std::move(file), files_);
      }
      return s;
    });
    if (here) {
      return *here;
    }
    lz_status status;
    Handle<lz_random, lz_random_free> file(lz_env_open_random(env_.get(), ToSlice(f), &status));
    if (file != nullptr) {
      *r = std::make_unique<RustRandomFile>(f, env_, std::move(file), target_, files_);
    }
    return ToIOStatus(status);
  });
}

IOStatus EnvFileSystem::NewWritableFile(const std::string& f, const FileOptions& options,
                                        std::unique_ptr<FSWritableFile>* r, IODebugContext* dbg) {
  return Guarded([&] {
    r->reset();
    if (auto native = NativePath(f)) {
      return target()->NewWritableFile(*native, options, r, dbg);
    }
    lz_status status;
    Handle<lz_writable, lz_writable_free> file(lz_env_create(env_.get(), ToSlice(f), &status));
    if (file != nullptr) {
      *r = std::make_unique<RustWritableFile>(std::move(file), options);
    }
    return ToIOStatus(status);
  });
}

IOStatus EnvFileSystem::ReopenWritableFile(const std::string& f, const FileOptions& options,
                                           std::unique_ptr<FSWritableFile>* r, IODebugContext* dbg) {
  return Guarded([&] {
    r->reset();
    if (auto native = NativePath(f)) {
      return target()->ReopenWritableFile(*native, options, r, dbg);
    }
    lz_status status;
    Handle<lz_writable, lz_writable_free> file(lz_env_open_append(env_.get(), ToSlice(f), &status));
    if (file != nullptr) {
      *r = std::make_unique<RustWritableFile>(std::move(file), options);
    }
    return ToIOStatus(status);
  });
}

IOStatus EnvFileSystem::ReuseWritableFile(const std::string& f, const std::string& old_f, const FileOptions& options,
                                          std::unique_ptr<FSWritableFile>* r, IODebugContext* dbg) {
  // The base class renames and creates, both through this object, so that Rust hears of the rename.
  return Guarded([&] { return FileSystem::ReuseWritableFile(f, old_f, options, r, dbg); });
}

IOStatus EnvFileSystem::NewRandomRWFile(const std::string& f, const FileOptions& options,
                                        std::unique_ptr<FSRandomRWFile>* r, IODebugContext* dbg) {
  return Guarded([&] {
    r->reset();
    auto native = NativePath(f);
    return native ? target()->NewRandomRWFile(*native, options, r, dbg) : IOStatus::NotSupported();
  });
}

IOStatus EnvFileSystem::NewMemoryMappedFileBuffer(const std::string& f, std::unique_ptr<MemoryMappedFileBuffer>* r) {
  return Guarded([&] {
    auto native = NativePath(f);
    return native ? target()->NewMemoryMappedFileBuffer(*native, r) : IOStatus::NotSupported();
  });
}

IOStatus EnvFileSystem::NewLogger(const std::string& f, const IOOptions& options, std::shared_ptr<Logger>* r,
                                  IODebugContext* dbg) {
  // The base class writes its log through this object's NewWritableFile: native where there is a native path.
  return Guarded([&] { return FileSystem::NewLogger(f, options, r, dbg); });
}

IOStatus EnvFileSystem::SyncFile(const std::string& f, const FileOptions& options, const IOOptions& io_options,
                                 bool use_fsync, IODebugContext* dbg) {
  // As with NewLogger: the base class reopens through this object, syncs and closes.
  return Guarded([&] { return FileSystem::SyncFile(f, options, io_options, use_fsync, dbg); });
}

IOStatus EnvFileSystem::NewDirectory(const std::string& d, const IOOptions& /*options*/,
                                     std::unique_ptr<FSDirectory>* r, IODebugContext* /*dbg*/) {
  return Guarded([&] {
    r->reset();
    lz_stat stat;
    IOStatus s = Stat(d, &stat);
    if (s.ok() && stat.is_dir == 0) {
      s = IOStatus::IOError("not a directory", d);
    }
    if (s.ok()) {
      *r = std::make_unique<RustDirectory>(env_, d);
    }
    return s;
  });
}

IOStatus EnvFileSystem::FileExists(const std::string& f, const IOOptions& /*options*/, IODebugContext* /*dbg*/) {
  return Guarded([&] {
    lz_stat stat;
    lz_status status;
    lz_env_stat(env_.get(), ToSlice(f), &stat, &status);
    return ToPresence(status);
  });
}

IOStatus EnvFileSystem::GetChildren(const std::string& d, const IOOptions& options, std::vector<std::string>* r,
                                    IODebugContext* /*dbg*/) {
  return Guarded([&] {
    r->clear();
    Children children{r, options.do_not_recurse};
    lz_status status;
    lz_env_list(env_.get(), ToSlice(d), &children, PushChild, &status);
    return ToPresence(status);
  });
}

IOStatus EnvFileSystem::GetChildrenFileAttributes(const std::string& d, const IOOptions& options,
                                                  std::vector<ROCKSDB_NAMESPACE::FileAttributes>* r,
                                                  IODebugContext* dbg) {
  // The base class lists and then asks for each size, through this object.
  return Guarded([&] { return FileSystem::GetChildrenFileAttributes(d, options, r, dbg); });
}

IOStatus EnvFileSystem::DeleteFile(const std::string& f, const IOOptions& /*options*/, IODebugContext* /*dbg*/) {
  return Guarded([&] {
    lz_status status;
    lz_env_delete(env_.get(), ToSlice(f), &status);
    return ToIOStatus(status);
  });
}

IOStatus EnvFileSystem::CreateDir(const std::string& d, const IOOptions& /*options*/, IODebugContext* /*dbg*/) {
  return Guarded([&] {
    lz_status status;
    lz_env_create_dir(env_.get(), ToSlice(d), &status);
    return ToIOStatus(status);
  });
}

IOStatus EnvFileSystem::CreateDirIfMissing(const std::string& d, const IOOptions& /*options*/,
                                           IODebugContext* /*dbg*/) {
  return Guarded([&] {
    lz_status status;
    lz_env_create_dir(env_.get(), ToSlice(d), &status);
    if (status.code != LZ_ALREADY_EXISTS) {
      return ToIOStatus(status);
    }
    lz_stat stat;
    IOStatus s = Stat(d, &stat);
    return s.ok() && stat.is_dir == 0 ? IOStatus::IOError("`" + d + "' exists but is not a directory") : s;
  });
}

IOStatus EnvFileSystem::DeleteDir(const std::string& d, const IOOptions& /*options*/, IODebugContext* /*dbg*/) {
  return Guarded([&] {
    lz_status status;
    lz_env_delete_dir(env_.get(), ToSlice(d), &status);
    return ToIOStatus(status);
  });
}

IOStatus EnvFileSystem::GetFileSize(const std::string& f, const IOOptions& /*options*/, uint64_t* size,
                                    IODebugContext* /*dbg*/) {
  return Guarded([&] {
    lz_stat stat;
    IOStatus s = Stat(f, &stat);
    *size = s.ok() ? stat.len : 0;
    return s;
  });
}

IOStatus EnvFileSystem::GetFileModificationTime(const std::string& f, const IOOptions& /*options*/, uint64_t* mtime,
                                                IODebugContext* /*dbg*/) {
  return Guarded([&] {
    lz_stat stat;
    IOStatus s = Stat(f, &stat);
    if (s.ok()) {
      *mtime = stat.modified_s;
    }
    return s;
  });
}

IOStatus EnvFileSystem::RenameFile(const std::string& from, const std::string& to, const IOOptions& /*options*/,
                                   IODebugContext* /*dbg*/) {
  return Guarded([&] {
    lz_status status;
    lz_env_rename(env_.get(), ToSlice(from), ToSlice(to), &status);
    return ToIOStatus(status);
  });
}

IOStatus EnvFileSystem::LinkFile(const std::string& from, const std::string& to, const IOOptions& /*options*/,
                                 IODebugContext* /*dbg*/) {
  return Guarded([&] {
    lz_status status;
    lz_env_link(env_.get(), ToSlice(from), ToSlice(to), &status);
    return ToIOStatus(status);
  });
}

IOStatus EnvFileSystem::NumFileLinks(const std::string& f, const IOOptions& /*options*/, uint64_t* count,
                                     IODebugContext* /*dbg*/) {
  return Guarded([&] {
    lz_stat stat;
    IOStatus s = Stat(f, &stat);
    if (s.ok()) {
      *count = stat.links;
    }
    return s;
  });
}

IOStatus EnvFileSystem::AreFilesSame(const std::string& a, const std::string& b, const IOOptions& options, bool* same,
                                     IODebugContext* dbg) {
  return Guarded([&] {
    auto native_a = NativePath(a);
    auto native_b = NativePath(b);
    if (native_a && native_b) {
      return target()->AreFilesSame(*native_a, *native_b, options, same, dbg);
    }
    // RocksDB asks this of its directories only, and compares the names itself where it gets no answer.
    return IOStatus::NotSupported();
  });
}

IOStatus EnvFileSystem::LockFile(const std::string& f, const IOOptions& /*options*/, FileLock** lock,
                                 IODebugContext* /*dbg*/) {
  return Guarded([&] {
    *lock = nullptr;
    lz_status status;
    Handle<lz_lock, lz_lock_free> held(lz_env_lock(env_.get(), ToSlice(f), &status));
    if (held != nullptr) {
      *lock = std::make_unique<RustFileLock>(std::move(held)).release();
    }
    return ToIOStatus(status);
  });
}

IOStatus EnvFileSystem::UnlockFile(FileLock* lock, const IOOptions& /*options*/, IODebugContext* /*dbg*/) {
  delete static_cast<RustFileLock*>(lock);
  return IOStatus::OK();
}

IOStatus EnvFileSystem::GetTestDirectory(const IOOptions& /*options*/, std::string* /*path*/, IODebugContext* /*dbg*/) {
  // The target would create one on the real disk; only RocksDB's own tests ask.
  return IOStatus::NotSupported();
}

IOStatus EnvFileSystem::GetFreeSpace(const std::string& path, const IOOptions& /*options*/, uint64_t* free,
                                     IODebugContext* /*dbg*/) {
  return Guarded([&] {
    lz_status status;
    *free = lz_env_free_space(env_.get(), ToSlice(path), &status);
    return ToIOStatus(status);
  });
}

IOStatus EnvFileSystem::IsDirectory(const std::string& path, const IOOptions& /*options*/, bool* is_dir,
                                    IODebugContext* /*dbg*/) {
  return Guarded([&] {
    lz_stat stat;
    IOStatus s = Stat(path, &stat);
    if (s.ok() && is_dir != nullptr) {
      *is_dir = stat.is_dir != 0;
    }
    return s;
  });
}

IOStatus EnvFileSystem::Poll(std::vector<void*>& handles, size_t /*min_completions*/) {
  // All of them, as RocksDB's POSIX file system does: who polls wants exactly these bytes now. A failed read is told
  // through its callback.
  IOStatus result;
  for (void* handle : handles) {
    IOStatus s = static_cast<PendingRandomRead*>(handle)->Finish();
    if (result.ok() && !s.ok()) {
      result = std::move(s);
    }
  }
  return result;
}

IOStatus EnvFileSystem::AbortIO(std::vector<void*>& handles) {
  IOStatus result;
  for (void* handle : handles) {
    IOStatus s = static_cast<PendingRandomRead*>(handle)->Abort();
    if (result.ok() && !s.ok()) {
      result = std::move(s);
    }
  }
  return result;
}

void EnvFileSystem::SupportedOps(int64_t& supported_ops) {
  // Asynchronous reads for the files that Rust reads; a local file refuses each one and RocksDB reads at once. Prefetch
  // for the local ones, as POSIX does; a file of Rust may refuse it in the same way.
  // A block that does not match its checksum is read once more: a file of Rust then asks its store anew, and drops what a
  // cache has of it; a local file reads what it read before.
  supported_ops = (1 << FSSupportedOps::kAsyncIO) | (1 << FSSupportedOps::kFSPrefetch) |
                  (1 << FSSupportedOps::kVerifyAndReconstructRead);
}

}  // namespace lazurite
