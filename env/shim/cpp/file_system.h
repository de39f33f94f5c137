// The rocksdb::FileSystem over a lazurite_env::Env.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "local_files.h"
#include "rocksdb/file_system.h"
#include "support.h"

namespace lazurite {

using ROCKSDB_NAMESPACE::FileLock;
using ROCKSDB_NAMESPACE::FileOptions;
using ROCKSDB_NAMESPACE::FileSystem;
using ROCKSDB_NAMESPACE::FileSystemWrapper;
using ROCKSDB_NAMESPACE::FSDirectory;
using ROCKSDB_NAMESPACE::FSRandomAccessFile;
using ROCKSDB_NAMESPACE::FSRandomRWFile;
using ROCKSDB_NAMESPACE::FSSequentialFile;
using ROCKSDB_NAMESPACE::FSWritableFile;
using ROCKSDB_NAMESPACE::IODebugContext;
using ROCKSDB_NAMESPACE::IOOptions;
using ROCKSDB_NAMESPACE::Logger;
using ROCKSDB_NAMESPACE::MemoryMappedFileBuffer;

// Names are always Rust's: every listing, stat, rename, link, delete, directory and lock goes to the Env. Bytes are
// Rust's only where the Env names no native path; else the target, RocksDB's own POSIX file system, opens that path.
//
// Left to FileSystemWrapper, which asks the POSIX target:
//   GetAbsolutePath           only looks at the string and the working directory
//   Truncate                  not supported there either; RocksDB truncates through a writable file
//   SanitizeFileOptions, OptimizeFor*  options in, options out
//   GetReadExecutor, SetReadIOExecutorThreads  nothing unless RocksDB is built with coroutines
//   Inner, PrepareOptions, SerializeOptions    the object's configuration
// Left to FileSystem (the wrapper does not forward them, and should not: they open directories on the real disk):
//   RegisterDbPaths, UnregisterDbPaths  a cache of block sizes for direct I/O; without it each open asks its file
class EnvFileSystem final : public FileSystemWrapper {
 public:
  EnvFileSystem(std::shared_ptr<lz_env> env, std::shared_ptr<LocalFiles> files)
      : FileSystemWrapper(FileSystem::Default()), env_(std::move(env)), files_(std::move(files)) {}

  static const char* kClassName() { return "LazuriteFileSystem"; }
  const char* Name() const override { return kClassName(); }

  IOStatus NewSequentialFile(const std::string& f, const FileOptions& options, std::unique_ptr<FSSequentialFile>* r,
                             IODebugContext* dbg) override;
  IOStatus NewRandomAccessFile(const std::string& f, const FileOptions& options, std::unique_ptr<FSRandomAccessFile>* r,
                               IODebugContext* dbg) override;
  IOStatus NewWritableFile(const std::string& f, const FileOptions& options, std::unique_ptr<FSWritableFile>* r,
                           IODebugContext* dbg) override;
  IOStatus ReopenWritableFile(const std::string& f, const FileOptions& options, std::unique_ptr<FSWritableFile>* r,
                              IODebugContext* dbg) override;
  IOStatus ReuseWritableFile(const std::string& f, const std::string& old_f, const FileOptions& options,
                             std::unique_ptr<FSWritableFile>* r, IODebugContext* dbg) override;
  IOStatus NewRandomRWFile(const std::string& f, const FileOptions& options, std::unique_ptr<FSRandomRWFile>* r,
                           IODebugContext* dbg) override;
  IOStatus NewMemoryMappedFileBuffer(const std::string& f, std::unique_ptr<MemoryMappedFileBuffer>* r) override;
  IOStatus NewLogger(const std::string& f, const IOOptions& options, std::shared_ptr<Logger>* r,
                     IODebugContext* dbg) override;
  IOStatus SyncFile(const std::string& f, const FileOptions& options, const IOOptions& io_options, bool use_fsync,
                    IODebugContext* dbg) override;

  IOStatus NewDirectory(const std::string& d, const IOOptions& options, std::unique_ptr<FSDirectory>* r,
                        IODebugContext* dbg) override;
  IOStatus FileExists(const std::string& f, const IOOptions& options, IODebugContext* dbg) override;
  IOStatus GetChildren(const std::string& d, const IOOptions& options, std::vector<std::string>* r,
                       IODebugContext* dbg) override;
  IOStatus GetChildrenFileAttributes(const std::string& d, const IOOptions& options,
                                     std::vector<ROCKSDB_NAMESPACE::FileAttributes>* r, IODebugContext* dbg) override;
  IOStatus DeleteFile(const std::string& f, const IOOptions& options, IODebugContext* dbg) override;
  IOStatus CreateDir(const std::string& d, const IOOptions& options, IODebugContext* dbg) override;
  IOStatus CreateDirIfMissing(const std::string& d, const IOOptions& options, IODebugContext* dbg) override;
  IOStatus DeleteDir(const std::string& d, const IOOptions& options, IODebugContext* dbg) override;
  IOStatus GetFileSize(const std::string& f, const IOOptions& options, uint64_t* size, IODebugContext* dbg) override;
  IOStatus GetFileModificationTime(const std::string& f, const IOOptions& options, uint64_t* mtime,
                                   IODebugContext* dbg) override;
  IOStatus RenameFile(const std::string& from, const std::string& to, const IOOptions& options,
                      IODebugContext* dbg) override;
  IOStatus LinkFile(const std::string& from, const std::string& to, const IOOptions& options,
                    IODebugContext* dbg) override;
  IOStatus NumFileLinks(const std::string& f, const IOOptions& options, uint64_t* count, IODebugContext* dbg) override;
  IOStatus AreFilesSame(const std::string& a, const std::string& b, const IOOptions& options, bool* same,
                        IODebugContext* dbg) override;
  IOStatus LockFile(const std::string& f, const IOOptions& options, FileLock** lock, IODebugContext* dbg) override;
  IOStatus UnlockFile(FileLock* lock, const IOOptions& options, IODebugContext* dbg) override;
  IOStatus GetTestDirectory(const IOOptions& options, std::string* path, IODebugContext* dbg) override;
  IOStatus GetFreeSpace(const std::string& path, const IOOptions& options, uint64_t* free,
                        IODebugContext* dbg) override;
  IOStatus IsDirectory(const std::string& path, const IOOptions& options, bool* is_dir, IODebugContext* dbg) override;

  IOStatus Poll(std::vector<void*>& handles, size_t min_completions) override;
  IOStatus AbortIO(std::vector<void*>& handles) override;
  // The Env keeps no cache of directories that could be stale.
  void DiscardCacheForDirectory(const std::string& /*path*/) override {}
  void SupportedOps(int64_t& supported_ops) override;

 private:
  std::optional<std::string> NativePath(const std::string& path) const;
  // What `open`, given the native path, answers; none where the file is not on the local disk.
  template <typename Open>
  std::optional<IOStatus> OpenHere(const std::string& path, Open&& open) const;
  IOStatus Stat(const std::string& path, lz_stat* out) const;

  const std::shared_ptr<lz_env> env_;
  const std::shared_ptr<LocalFiles> files_;
};

}  // namespace lazurite
