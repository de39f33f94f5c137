// The other things that Rust opens: files read or written in order, directories and locks.
#pragma once

#include <memory>
#include <string>

#include "rocksdb/file_system.h"
#include "support.h"

namespace lazurite {

using ROCKSDB_NAMESPACE::DataVerificationInfo;
using ROCKSDB_NAMESPACE::DirFsyncOptions;
using ROCKSDB_NAMESPACE::FileOptions;
using ROCKSDB_NAMESPACE::FSDirectory;
using ROCKSDB_NAMESPACE::FSSequentialFile;
using ROCKSDB_NAMESPACE::FSWritableFile;
using ROCKSDB_NAMESPACE::IODebugContext;
using ROCKSDB_NAMESPACE::IOOptions;
using ROCKSDB_NAMESPACE::Slice;

class RustSequentialFile final : public FSSequentialFile {
 public:
  explicit RustSequentialFile(Handle<lz_sequential, lz_sequential_free> file) : file_(std::move(file)) {}

  IOStatus Read(size_t n, const IOOptions& options, Slice* result, char* scratch, IODebugContext* dbg) override;
  IOStatus Skip(uint64_t n) override;
  IOStatus InvalidateCache(size_t /*offset*/, size_t /*length*/) override { return IOStatus::OK(); }

  // Left to the base class: use_direct_io (false), GetRequiredBufferAlignment, PositionedRead (direct I/O only),
  // GetTemperature (unknown).

 private:
  const Handle<lz_sequential, lz_sequential_free> file_;
};

class RustWritableFile final : public FSWritableFile {
 public:
  RustWritableFile(Handle<lz_writable, lz_writable_free> file, const FileOptions& options)
      : FSWritableFile(options), file_(std::move(file)) {}

  IOStatus Append(const Slice& data, const IOOptions& options, IODebugContext* dbg) override;
  // The checksum that RocksDB hands along is not checked here; RocksDB checks blocks and records when it reads them.
  IOStatus Append(const Slice& data, const IOOptions& options, const DataVerificationInfo& /*info*/,
                  IODebugContext* dbg) override {
    return Append(data, options, dbg);
  }
  IOStatus Truncate(uint64_t size, const IOOptions& options, IODebugContext* dbg) override;
  IOStatus Close(const IOOptions& options, IODebugContext* dbg) override;
  IOStatus Flush(const IOOptions& options, IODebugContext* dbg) override;
  IOStatus Sync(const IOOptions& options, IODebugContext* dbg) override;
  // The Rust file has a lock of its own. Without this, RocksDB refuses SyncWAL and FlushWAL(sync).
  bool IsSyncThreadSafe() const override { return true; }
  uint64_t GetFileSize(const IOOptions& options, IODebugContext* dbg) override;
  IOStatus InvalidateCache(size_t /*offset*/, size_t /*length*/) override { return IOStatus::OK(); }

  // Left to the base class: Fsync (= Sync), PositionedAppend (direct I/O only), use_direct_io (false), the write hints,
  // the preallocation size with Allocate (nothing), RangeSync (Sync where strict_bytes_per_sync, else nothing) and
  // GetUniqueId (none). The destructor frees the handle, and Rust closes a file that is dropped.

 private:
  const Handle<lz_writable, lz_writable_free> file_;
  bool closed_ = false;
};

class RustDirectory final : public FSDirectory {
 public:
  RustDirectory(std::shared_ptr<lz_env> env, std::string path) : env_(std::move(env)), path_(std::move(path)) {}

  // FsyncWithDirOptions comes here too: the reason for a sync changes nothing.
  IOStatus Fsync(const IOOptions& options, IODebugContext* dbg) override;
  IOStatus Close(const IOOptions& /*options*/, IODebugContext* /*dbg*/) override { return IOStatus::OK(); }

 private:
  const std::shared_ptr<lz_env> env_;
  const std::string path_;
};

class RustFileLock final : public ROCKSDB_NAMESPACE::FileLock {
 public:
  explicit RustFileLock(Handle<lz_lock, lz_lock_free> lock) : lock_(std::move(lock)) {}

 private:
  const Handle<lz_lock, lz_lock_free> lock_;
};

}  // namespace lazurite
