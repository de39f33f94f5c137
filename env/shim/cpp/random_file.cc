#include "random_file.h"

#include <cstring>

namespace lazurite {

using ROCKSDB_NAMESPACE::Env;
using ROCKSDB_NAMESPACE::FileOptions;
using ROCKSDB_NAMESPACE::IOType;

uint8_t ToActivity(Env::IOActivity activity) {
  switch (activity) {
    case Env::IOActivity::kGet:
    case Env::IOActivity::kGetEntity:
      return 1;
    case Env::IOActivity::kMultiGet:
    case Env::IOActivity::kMultiGetEntity:
      return 2;
    case Env::IOActivity::kDBIterator:
      return 3;
    case Env::IOActivity::kCompaction:
      return 4;
    case Env::IOActivity::kFlush:
      return 5;
    case Env::IOActivity::kDBOpen:
      return 6;
    case Env::IOActivity::kVerifyDBChecksum:
    case Env::IOActivity::kVerifyFileChecksums:
    case Env::IOActivity::kGetFileChecksumsFromCurrentManifest:
      return 7;
    default:
      return 0;
  }
}

namespace {

// RocksDB 11.8.1 leaves the type of most reads unknown.
uint8_t ToBlock(IOType type) {
  switch (type) {
    case IOType::kData:
      return 1;
    case IOType::kFilter:
      return 2;
    case IOType::kIndex:
      return 3;
    case IOType::kMetadata:
      return 4;
    default:
      return 0;
  }
}

lz_hint ToHint(const IOOptions& options) {
  // Set where RocksDB reads a block again whose checksum did not match, whoever reads it.
  constexpr uint8_t kReread = 8;
  return lz_hint{options.verify_and_reconstruct_read ? kReread : ToActivity(options.io_activity), ToBlock(options.type)};
}

// RocksDB gives no buffer where it trusts the file to hand out its own memory (mmap reads, kFSBuffer): ours does not.
IOStatus NoBuffer() { return IOStatus::InvalidArgument("a file that is not local cannot be read by mmap"); }

}  // namespace

IOStatus LocalRandomFile::ReadAsync(FSReadRequest& /*req*/, const IOOptions& /*opts*/,
                                    std::function<void(FSReadRequest&, void*)> /*cb*/, void* /*cb_arg*/,
                                    void** /*io_handle*/, IOHandleDeleter* /*del_fn*/, IODebugContext* /*dbg*/) {
  return IOStatus::NotSupported();
}

PendingRandomRead::PendingRandomRead(Handle<lz_pending, lz_pending_free> pending, const FSReadRequest& req,
                                     std::function<void(FSReadRequest&, void*)> cb, void* cb_arg)
    : pending_(std::move(pending)),
      offset_(req.offset),
      len_(req.len),
      scratch_(req.scratch),
      cb_(std::move(cb)),
      cb_arg_(cb_arg) {}

IOStatus PendingRandomRead::Finish() noexcept {
  return Guarded([&] {
    if (pending_ != nullptr) {
      lz_status status;
      const size_t read = lz_pending_wait(pending_.release(), scratch_, len_, &status);
      CallBack(ToIOStatus(status), read);
    }
    return IOStatus::OK();
  });
}

IOStatus PendingRandomRead::Abort() noexcept {
  return Guarded([&] {
    if (pending_ != nullptr) {
      pending_.reset();
      CallBack(IOStatus::Aborted(), 0);
    }
    return IOStatus::OK();
  });
}

void PendingRandomRead::CallBack(IOStatus status, size_t read) {
  // The request that RocksDB passed lives on a stack that is gone: a copy of its fields goes back.
  FSReadRequest req;
  req.offset = offset_;
  req.len = len_;
  req.scratch = scratch_;
  req.result = Slice(scratch_, status.ok() ? read : 0);
  req.status = std::move(status);
  cb_(req, cb_arg_);
}

FSRandomAccessFile* RustRandomFile::Native() const noexcept {
  if (FSRandomAccessFile* native = native_.load(std::memory_order_acquire)) {
    return native;
  }
  return native_failed_.load(std::memory_order_relaxed) ? nullptr : OpenNative();
}

FSRandomAccessFile* RustRandomFile::OpenNative() const noexcept {
  try {
    std::string path;
    if (lz_random_native_path(file_.get(), &path, AssignString) == 0) {
      return nullptr;
    }
    const std::lock_guard<std::mutex> lock(native_mutex_);
    if (native_owner_ != nullptr) {
      return native_owner_.get();
    }
    if (native_failed_.load(std::memory_order_relaxed)) {
      return nullptr;
    }
    // Set first and taken back at the end, so that an exception half way counts as a failure too.
    native_failed_.store(true, std::memory_order_relaxed);
    std::unique_ptr<FSRandomAccessFile> opened;
    FileOptions buffered;
    buffered.use_direct_reads = false;
    buffered.use_mmap_reads = false;
    uint64_t local_len = 0;
    lz_status status;
    const uint64_t len = lz_random_len(file_.get(), &status);
    if (!native_fs_->NewRandomAccessFile(path, buffered, &opened, nullptr).ok() ||
        !opened->GetFileSize(&local_len).ok() || status.code != LZ_OK || local_len != len) {
      return nullptr;
    }
    opened->Hint(pattern_.load(std::memory_order_relaxed));
    native_owner_ = std::make_unique<LocalRandomFile>(std::move(opened), reads_);
    native_failed_.store(false, std::memory_order_relaxed);
    native_.store(native_owner_.get(), std::memory_order_release);
    return native_owner_.get();
  } catch (...) {
    return nullptr;
  }
}

void RustRandomFile::Hint(AccessPattern pattern) {
  pattern_.store(pattern, std::memory_order_relaxed);
  if (FSRandomAccessFile* native = native_.load(std::memory_order_acquire)) {
    native->Hint(pattern);
  }
}

IOStatus RustRandomFile::Read(uint64_t offset, size_t n, const IOOptions& options, Slice* result, char* scratch,
                              IODebugContext* dbg) const {
  if (FSRandomAccessFile* native = Native()) {
    return native->Read(offset, n, options, result, scratch, dbg);
  }
  return Guarded([&] {
    *result = Slice(scratch, 0);
    if (scratch == nullptr && n != 0) {
      return NoBuffer();
    }
    lz_status status;
    const size_t read = lz_random_read(file_.get(), offset, scratch, n, ToHint(options), &status);
    if (status.code == LZ_OK) {
      *result = Slice(scratch, read);
    }
    return ToIOStatus(status);
  });
}

IOStatus RustRandomFile::MultiRead(FSReadRequest* reqs, size_t num_reqs, const IOOptions& options,
                                   IODebugContext* dbg) {
  if (FSRandomAccessFile* native = Native()) {
    return native->MultiRead(reqs, num_reqs, options, dbg);
  }
  return Guarded([&] {
    std::vector<lz_range> ranges(num_reqs);
    for (size_t i = 0; i < num_reqs; ++i) {
      if (reqs[i].scratch == nullptr && reqs[i].len != 0) {
        return NoBuffer();
      }
      ranges[i].offset = reqs[i].offset;
      ranges[i].buf = reqs[i].scratch;
      ranges[i].len = reqs[i].len;
    }
    lz_status status;
    lz_random_read_many(file_.get(), ranges.data(), num_reqs, ToHint(options), &status);
    if (status.code != LZ_OK) {
      return ToIOStatus(status);
    }
    for (size_t i = 0; i < num_reqs; ++i) {
      reqs[i].status = ToIOStatus(ranges[i].status);
      reqs[i].result = Slice(reqs[i].scratch, reqs[i].status.ok() ? ranges[i].read : 0);
    }
    return IOStatus::OK();
  });
}

IOStatus RustRandomFile::ReadAsync(FSReadRequest& req, const IOOptions& opts,
                                   std::function<void(FSReadRequest&, void*)> cb, void* cb_arg, void** io_handle,
                                   IOHandleDeleter* del_fn, IODebugContext* dbg) {
  if (FSRandomAccessFile* native = Native()) {
    return native->ReadAsync(req, opts, std::move(cb), cb_arg, io_handle, del_fn, dbg);
  }
  return Guarded([&] {
    if (req.scratch == nullptr && req.len != 0) {
      return NoBuffer();
    }
    lz_status status;
    Handle<lz_pending, lz_pending_free> pending(
        lz_random_start_read(file_.get(), req.offset, req.len, ToHint(opts), &status));
    if (pending == nullptr) {
      return ToIOStatus(status);
    }
    auto read = std::make_unique<PendingRandomRead>(std::move(pending), req, std::move(cb), cb_arg);
    *del_fn = [](void* handle) { delete static_cast<PendingRandomRead*>(handle); };
    *io_handle = read.release();
    return IOStatus::OK();
  });
}

IOStatus RustRandomFile::Prefetch(uint64_t offset, size_t n, const IOOptions& options, IODebugContext* dbg) {
  if (FSRandomAccessFile* native = Native()) {
    return native->Prefetch(offset, n, options, dbg);
  }
  return Guarded([&] {
    lz_status status;
    const bool prefetches = lz_random_prefetch(file_.get(), offset, n, ToHint(options), &status) != 0;
    // NotSupported makes RocksDB read ahead into buffers of its own.
    return status.code == LZ_OK && !prefetches ? IOStatus::NotSupported() : ToIOStatus(status);
  });
}

IOStatus RustRandomFile::GetFileSize(uint64_t* result) {
  return Guarded([&] {
    lz_status status;
    *result = lz_random_len(file_.get(), &status);
    return ToIOStatus(status);
  });
}

size_t RustRandomFile::GetUniqueId(char* id, size_t max_size) const {
  // A POSIX file's id is three varints. No varint begins with ten 0xff bytes, so neither kind of id is a prefix of the
  // other, and two of ours have one length.
  constexpr size_t kMark = 10;
  constexpr size_t kId = 16;
  if (max_size < kMark + kId || lz_random_unique_id(file_.get(), id + kMark) == 0) {
    return 0;
  }
  std::memset(id, 0xff, kMark);
  return kMark + kId;
}

}  // namespace lazurite
