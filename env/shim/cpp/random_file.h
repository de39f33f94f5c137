// Files that are read at any offset: the local one, which only counts, and the one that Rust reads.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "local_files.h"
#include "rocksdb/file_system.h"
#include "support.h"

namespace lazurite {

using ROCKSDB_NAMESPACE::FileOptions;
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

// How many bytes a batch asks for.
inline uint64_t Bytes(const FSReadRequest* reqs, size_t num_reqs) {
  uint64_t bytes = 0;
  for (size_t i = 0; i < num_reqs; ++i) {
    bytes += reqs[i].len;
  }
  return bytes;
}

// Get, MultiGet: what heats a chunk. Iterators pass through whole files, and compactions and the like are not the user's.
inline bool Heats(uint8_t activity) { return activity == 1 || activity == 2; }

// The length of a local file; 0 where it does not tell.
inline uint64_t LengthOf(FSRandomAccessFile* file) noexcept {
  uint64_t len = 0;
  return file->GetFileSize(&len).ok() ? len : 0;
}

// RocksDB's own POSIX file plus a counter, for files that stay where they are. Everything that is not overridden goes to
// the POSIX file.
class LocalRandomFile final : public FSRandomAccessFileOwnerWrapper {
 public:
  LocalRandomFile(std::string path, std::unique_ptr<FSRandomAccessFile>&& file, std::shared_ptr<LocalFiles> files)
      : FSRandomAccessFileOwnerWrapper(std::move(file)), files_(std::move(files)), heat_(*files_, std::move(path)) {}

  IOStatus Read(uint64_t offset, size_t n, const IOOptions& options, Slice* result, char* scratch,
                IODebugContext* dbg) const override {
    return files_->reads.Count(
        ToActivity(options.io_activity), 1, n, [&] { return target()->Read(offset, n, options, result, scratch, dbg); },
        [&] { NoteRead(options, offset, n); });
  }

  IOStatus MultiRead(FSReadRequest* reqs, size_t num_reqs, const IOOptions& options, IODebugContext* dbg) override {
    return files_->reads.Count(
        ToActivity(options.io_activity), num_reqs, Bytes(reqs, num_reqs),
        [&] { return target()->MultiRead(reqs, num_reqs, options, dbg); },
        [&] {
          for (size_t i = 0; i < num_reqs; ++i) {
            NoteRead(options, reqs[i].offset, reqs[i].len);
          }
        });
  }

  // Never begins a read of its own, so that every handle that reaches Poll and AbortIO is a PendingRandomRead; RocksDB
  // reads at once instead. (The POSIX file answers the same where io_uring is not compiled in.)
  IOStatus ReadAsync(FSReadRequest& req, const IOOptions& opts, std::function<void(FSReadRequest&, void*)> cb,
                     void* cb_arg, void** io_handle, IOHandleDeleter* del_fn, IODebugContext* dbg) override;

  bool SubmitReadAsync(FSReadRequest& req, const IOOptions& opts, std::function<void(FSReadRequest&)> cb,
                       IODebugContext* dbg) override {
    return files_->reads.Count(
        ToActivity(opts.io_activity), 1, req.len,
        [&] { return target()->SubmitReadAsync(req, opts, std::move(cb), dbg); }, [] {});
  }

 private:
  // Asks for the activity again: the reads that are not noted keep nothing for it.
  void NoteRead(const IOOptions& options, uint64_t offset, size_t n) const noexcept {
    if (Heats(ToActivity(options.io_activity))) {
      heat_.Note(offset, n, [&] { return LengthOf(target()); });
    }
  }

  const std::shared_ptr<LocalFiles> files_;
  mutable ChunkHeat heat_;
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

// A file that RocksDB's POSIX file reads while it is on the local disk, and Rust while it is not. Where files can be let go,
// it may go both ways, any number of times, under its readers; else only from Rust to the local disk, once.
//
// Here: each read loads the POSIX file and reads; where the file can be let go, it enters before (one atomic operation, on
// a cache line of its thread's own, which is the one that counts the read) and leaves behind. Elsewhere: before each read it
// asks Rust for the native path; the first answer opens the POSIX file, under a mutex, and publishes it. LetGo takes it
// back: from then on reads find none and go through Rust; the descriptor is closed when those who had entered before have
// left. Where the local file cannot be it (another length, no permission), it goes on through Rust for ever.
class RustRandomFile final : public FSRandomAccessFile {
 public:
  // `file` is null for one that is about to be opened by OpenHere.
  RustRandomFile(std::string path, std::shared_ptr<lz_env> env, Handle<lz_random, lz_random_free> file,
                 std::shared_ptr<FileSystem> native_fs, std::shared_ptr<LocalFiles> files);
  ~RustRandomFile() override;

  // Opens the file at `native`. Called once, before anything is read. It is in the list of open files by then, so that it
  // is let go even if it goes from the disk right behind this.
  IOStatus OpenHere(const std::string& native, const FileOptions& options, IODebugContext* dbg);

  // Has reads go through Rust from now on, and moves the POSIX file to `owners`. False where Rust cannot read it. Called
  // only for files that can be let go.
  bool LetGo(OpenDescriptors* owners) noexcept;

  // The tick at which it was opened on the local disk, or a user last read it there.
  uint32_t LastUsed() const noexcept { return last_used_.load(std::memory_order_relaxed); }

  IOStatus Read(uint64_t offset, size_t n, const IOOptions& options, Slice* result, char* scratch,
                IODebugContext* dbg) const override;
  IOStatus MultiRead(FSReadRequest* reqs, size_t num_reqs, const IOOptions& options, IODebugContext* dbg) override;
  // Not supported while it is here, as with LocalRandomFile, and for the same reason.
  IOStatus ReadAsync(FSReadRequest& req, const IOOptions& opts, std::function<void(FSReadRequest&, void*)> cb,
                     void* cb_arg, void** io_handle, IOHandleDeleter* del_fn, IODebugContext* dbg) override;
  IOStatus Prefetch(uint64_t offset, size_t n, const IOOptions& options, IODebugContext* dbg) override;
  IOStatus GetFileSize(uint64_t* result) override;
  // Stays what it was at first, wherever the file goes.
  size_t GetUniqueId(char* id, size_t max_size) const override;
  // Kept for the local file: RocksDB tells its access pattern once, when it opens a table.
  void Hint(AccessPattern pattern) override;

  // Elsewhere there is nothing to forget; the chunks of a remote file are Rust's to keep or drop.
  IOStatus InvalidateCache(size_t offset, size_t length) override;

  // Any byte range can be read: RocksDB would otherwise round what it reads ahead to pages, and so ask for a piece of data
  // beside each tail. The local file is opened for buffered reads, which need no alignment either.
  size_t GetRequiredBufferAlignment() const override { return 1; }

  // Left to the base class: use_direct_io (false),
  // GetTemperature (unknown), GetFileOpenMetadata (not supported) and SubmitReadAsync (a plain Read; only RocksDB built
  // with coroutines calls it).

 private:
  // The POSIX file, and the promise that it stays open for as long as this lives.
  struct Native {
    std::optional<LocalReads::Inside> inside;  // none where it is never let go
    FSRandomAccessFile* file;
    FSRandomAccessFile* operator->() const noexcept { return file; }
  };

  // For `n` reads, which are counted here where the file can be let go. None where Rust reads.
  std::optional<Native> Here(uint8_t activity, uint64_t n) const noexcept;
  // For what is no read.
  std::optional<Native> Here() const noexcept { return Here(0, 0); }
  // Makes `n` reads of `bytes` in all, on the local disk, and counts them. `note`: see LocalReads.
  template <typename Make, typename Note>
  IOStatus Counted(const Native& native, uint8_t activity, uint64_t n, uint64_t bytes, Make&& make, Note&& note) const;
  void NoteRead(const Native& native, uint8_t activity, uint64_t offset, size_t n) const noexcept;
  bool TryOpenHere() const noexcept;
  void Publish(std::unique_ptr<FSRandomAccessFile> opened) const noexcept;
  void Used(const IOOptions& options) const noexcept;
  // Not null where Here() gave none.
  const lz_random* Rust() const noexcept { return rust_.load(std::memory_order_acquire); }

  const std::string path_;
  const std::shared_ptr<lz_env> env_;
  const std::shared_ptr<FileSystem> native_fs_;
  const std::shared_ptr<LocalFiles> files_;
  const bool releasable_;
  mutable ChunkHeat heat_;

  std::atomic<AccessPattern> pattern_{kNormal};
  mutable std::atomic<uint32_t> last_used_{0};
  std::atomic<const lz_random*> rust_;
  mutable std::atomic<FSRandomAccessFile*> native_{nullptr};
  mutable std::atomic<bool> native_failed_{false};
  mutable std::mutex native_mutex_;
  // Below: under the mutex.
  Handle<lz_random, lz_random_free> rust_owner_;
  mutable std::unique_ptr<FSRandomAccessFile> native_owner_;
  bool opened_here_ = false;
  std::string native_id_;  // what the POSIX file that it was opened with answered
};

}  // namespace lazurite
