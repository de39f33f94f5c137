// Files that are read at any offset: the local one, which only counts, and the one that Rust reads.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "local_reads.h"
#include "rocksdb/file_system.h"
#include "support.h"

namespace lazurite {

using ROCKSDB_NAMESPACE::FileSystem;
using ROCKSDB_NAMESPACE::FSRandomAccessFile;
using ROCKSDB_NAMESPACE::FSRandomAccessFileOwnerWrapper;
using ROCKSDB_NAMESPACE::FSReadRequest;
using ROCKSDB_NAMESPACE::IODebugContext;
using ROCKSDB_NAMESPACE::IOHandleDeleter;
using ROCKSDB_NAMESPACE::IOOptions;
using ROCKSDB_NAMESPACE::Slice;

// The number of an activity in Rust.
uint8_t ToActivity(ROCKSDB_NAMESPACE::Env::IOActivity activity);

// RocksDB's own POSIX file plus a counter. Everything that is not overridden goes to the POSIX file.
class LocalRandomFile final : public FSRandomAccessFileOwnerWrapper {
 public:
  LocalRandomFile(std::unique_ptr<FSRandomAccessFile>&& file, std::shared_ptr<LocalReads> reads)
      : FSRandomAccessFileOwnerWrapper(std::move(file)), reads_(std::move(reads)) {}

  IOStatus Read(uint64_t offset, size_t n, const IOOptions& options, Slice* result, char* scratch,
                IODebugContext* dbg) const override {
    return reads_->Count(ToActivity(options.io_activity), 1, n,
                         [&] { return target()->Read(offset, n, options, result, scratch, dbg); });
  }

  IOStatus MultiRead(FSReadRequest* reqs, size_t num_reqs, const IOOptions& options, IODebugContext* dbg) override {
    uint64_t bytes = 0;
    for (size_t i = 0; i < num_reqs; ++i) {
      bytes += reqs[i].len;
    }
    return reads_->Count(ToActivity(options.io_activity), num_reqs, bytes,
                         [&] { return target()->MultiRead(reqs, num_reqs, options, dbg); });
  }

  // Never begins a read of its own, so that every handle that reaches Poll and AbortIO is a PendingRandomRead; RocksDB
  // reads at once instead. (The POSIX file answers the same where io_uring is not compiled in.)
  IOStatus ReadAsync(FSReadRequest& req, const IOOptions& opts, std::function<void(FSReadRequest&, void*)> cb,
                     void* cb_arg, void** io_handle, IOHandleDeleter* del_fn, IODebugContext* dbg) override;

  bool SubmitReadAsync(FSReadRequest& req, const IOOptions& opts, std::function<void(FSReadRequest&)> cb,
                       IODebugContext* dbg) override {
    return reads_->Count(ToActivity(opts.io_activity), 1, req.len,
                         [&] { return target()->SubmitReadAsync(req, opts, std::move(cb), dbg); });
  }

 private:
  const std::shared_ptr<LocalReads> reads_;
};

// A read that Rust has begun. The bytes stay in Rust until Poll copies them, so that abandoning it needs no waiting.
class PendingRandomRead {
 public:
  PendingRandomRead(Handle<lz_pending, lz_pending_free> pending, const FSReadRequest& req,
                    std::function<void(FSReadRequest&, void*)> cb, void* cb_arg);

  // Waits for the bytes and calls back; nothing the second time.
  IOStatus Finish() noexcept;

  // Calls back with Aborted; nothing where it has ended.
  IOStatus Abort() noexcept;

 private:
  void CallBack(IOStatus status, size_t read);

  Handle<lz_pending, lz_pending_free> pending_;  // null: ended
  uint64_t offset_;
  size_t len_;
  char* scratch_;
  std::function<void(FSReadRequest&, void*)> cb_;
  void* cb_arg_;
};

// A file that Rust reads, until the whole of it is on the local disk: then it opens that file and reads there.
//
// Before each read it asks Rust for the native path. The first answer opens the POSIX file, once, under a mutex; the
// pointer is published with release, and from then on a read costs one acquire load more than on a local file. Reads
// under way end where they began. Where opening fails, it goes on through Rust for ever.
class RustRandomFile final : public FSRandomAccessFile {
 public:
  RustRandomFile(Handle<lz_random, lz_random_free> file, std::shared_ptr<FileSystem> native_fs,
                 std::shared_ptr<LocalReads> reads)
      : file_(std::move(file)), native_fs_(std::move(native_fs)), reads_(std::move(reads)) {}

  IOStatus Read(uint64_t offset, size_t n, const IOOptions& options, Slice* result, char* scratch,
                IODebugContext* dbg) const override;
  IOStatus MultiRead(FSReadRequest* reqs, size_t num_reqs, const IOOptions& options, IODebugContext* dbg) override;
  IOStatus ReadAsync(FSReadRequest& req, const IOOptions& opts, std::function<void(FSReadRequest&, void*)> cb,
                     void* cb_arg, void** io_handle, IOHandleDeleter* del_fn, IODebugContext* dbg) override;
  IOStatus Prefetch(uint64_t offset, size_t n, const IOOptions& options, IODebugContext* dbg) override;
  IOStatus GetFileSize(uint64_t* result) override;
  size_t GetUniqueId(char* id, size_t max_size) const override;
  // Kept for the local file: RocksDB tells its access pattern once, when it opens a table.
  void Hint(AccessPattern pattern) override;

  // There is nothing here to forget; the chunks of a remote file are Rust's to keep or drop.
  IOStatus InvalidateCache(size_t /*offset*/, size_t /*length*/) override { return IOStatus::OK(); }

  // Any byte range can be read: RocksDB would otherwise round what it reads ahead to pages, and so ask for a piece of data
  // beside each tail. The swapped file is opened for buffered reads, which need no alignment either.
  size_t GetRequiredBufferAlignment() const override { return 1; }

  // Left to the base class: use_direct_io (false),
  // GetTemperature (unknown), GetFileOpenMetadata (not supported) and SubmitReadAsync (a plain Read; only RocksDB built
  // with coroutines calls it).

 private:
  FSRandomAccessFile* Native() const noexcept;
  FSRandomAccessFile* OpenNative() const noexcept;

  const Handle<lz_random, lz_random_free> file_;
  const std::shared_ptr<FileSystem> native_fs_;
  const std::shared_ptr<LocalReads> reads_;

  std::atomic<AccessPattern> pattern_{kNormal};
  mutable std::atomic<FSRandomAccessFile*> native_{nullptr};
  mutable std::atomic<bool> native_failed_{false};
  mutable std::mutex native_mutex_;
  mutable std::unique_ptr<FSRandomAccessFile> native_owner_;  // written once, under the mutex
};

}  // namespace lazurite
