#include "random_file.h"

#include <cstring>

namespace lazurite {

using ROCKSDB_NAMESPACE::Env;
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

RustRandomFile::RustRandomFile(std::string path, std::shared_ptr<lz_env> env,
                               Handle<lz_random, lz_random_free> file, std::shared_ptr<FileSystem> native_fs,
                               std::shared_ptr<LocalFiles> files)
    : path_(std::move(path)),
      env_(std::move(env)),
      native_fs_(std::move(native_fs)),
      files_(std::move(files)),
      releasable_(files_->IsReleasable()),
      heat_(*files_, path_),
      rust_(file.get()),
      rust_owner_(std::move(file)) {
  if (releasable_) {
    files_->Opened(path_, this);
  }
}

RustRandomFile::~RustRandomFile() {
  if (releasable_) {
    files_->Closed(path_, this);
  }
}

IOStatus RustRandomFile::OpenHere(const std::string& native, const FileOptions& options, IODebugContext* dbg) {
  const std::lock_guard<std::mutex> lock(native_mutex_);
  std::unique_ptr<FSRandomAccessFile> opened;
  IOStatus s = native_fs_->NewRandomAccessFile(native, options, &opened, dbg);
  if (s.ok()) {
    opened_here_ = true;
    Publish(std::move(opened));
  }
  return s;
}

void RustRandomFile::Publish(std::unique_ptr<FSRandomAccessFile> opened) const noexcept {
  opened->Hint(pattern_.load(std::memory_order_relaxed));
  last_used_.store(files_->Now(), std::memory_order_relaxed);
  native_owner_ = std::move(opened);
  native_.store(native_owner_.get(), std::memory_order_seq_cst);
}

std::optional<RustRandomFile::Native> RustRandomFile::Here(uint8_t activity, uint64_t n) const noexcept {
  FSRandomAccessFile* file = native_.load(std::memory_order_acquire);
  if (file == nullptr) {
    if (native_failed_.load(std::memory_order_relaxed) || !TryOpenHere()) {
      return std::nullopt;
    }
    file = native_.load(std::memory_order_acquire);
  }
  if (!releasable_) {
    return Native{std::nullopt, file};
  }
  LocalReads::Inside inside(files_->reads, activity, n);
  // Sequentially consistent, as is entering: either this finds it gone, or who takes it away finds this reader inside.
  file = native_.load(std::memory_order_seq_cst);
  if (file == nullptr) {
    inside.Uncount(n);
    return std::nullopt;
  }
  return Native{std::move(inside), file};
}

template <typename Make, typename Note>
IOStatus RustRandomFile::Counted(const Native& native, uint8_t activity, uint64_t n, uint64_t bytes, Make&& make,
                                 Note&& note) const {
  if (native.inside) {
    return native.inside->Make(bytes, std::forward<Make>(make), std::forward<Note>(note));
  }
  return files_->reads.Count(activity, n, bytes, std::forward<Make>(make), std::forward<Note>(note));
}

void RustRandomFile::NoteRead(const Native& native, uint8_t activity, uint64_t offset, size_t n) const noexcept {
  if (Heats(activity)) {
    heat_.Note(offset, n, [&] { return LengthOf(native.file); });
  }
}

bool RustRandomFile::TryOpenHere() const noexcept {
  try {
    std::string path;
    if (lz_random_native_path(Rust(), &path, AssignString) == 0) {
      return false;
    }
    const std::lock_guard<std::mutex> lock(native_mutex_);
    if (native_owner_ != nullptr) {
      return true;
    }
    if (native_failed_.load(std::memory_order_relaxed)) {
      return false;
    }
    // Set first and taken back at the end, so that an exception half way counts as a failure too.
    native_failed_.store(true, std::memory_order_relaxed);
    std::unique_ptr<FSRandomAccessFile> opened;
    FileOptions buffered;
    buffered.use_direct_reads = false;
    buffered.use_mmap_reads = false;
    const IOStatus s = native_fs_->NewRandomAccessFile(path, buffered, &opened, nullptr);
    if (s.IsPathNotFound() || s.IsNotFound()) {
      // It has left again since Rust was asked.
      native_failed_.store(false, std::memory_order_relaxed);
      return false;
    }
    uint64_t local_len = 0;
    lz_status status;
    const uint64_t len = lz_random_len(Rust(), &status);
    if (!s.ok() || !opened->GetFileSize(&local_len).ok() || status.code != LZ_OK || local_len != len) {
      return false;
    }
    native_failed_.store(false, std::memory_order_relaxed);
    Publish(std::move(opened));
    return true;
  } catch (...) {
    return false;
  }
}

bool RustRandomFile::LetGo(OpenDescriptors* owners) noexcept {
  try {
    const std::lock_guard<std::mutex> lock(native_mutex_);
    if (native_owner_ == nullptr) {
      return true;
    }
    if (rust_owner_ == nullptr) {
      lz_status status;
      Handle<lz_random, lz_random_free> file(lz_env_open_random(env_.get(), ToSlice(path_), &status));
      uint64_t here = 0;
      if (file == nullptr || !native_owner_->GetFileSize(&here).ok() ||
          lz_random_len(file.get(), &status) != here || status.code != LZ_OK) {
        return false;
      }
      char id[64];
      native_id_.assign(id, native_owner_->GetUniqueId(id, sizeof(id)));
      rust_owner_ = std::move(file);
      rust_.store(rust_owner_.get(), std::memory_order_release);
    }
    owners->emplace_back();  // may throw; nothing below does
    native_.store(nullptr, std::memory_order_seq_cst);
    owners->back() = std::move(native_owner_);
    return true;
  } catch (...) {
    return false;
  }
}

void RustRandomFile::Used(const IOOptions& options) const noexcept {
  if (!releasable_) {
    return;
  }
  switch (options.io_activity) {
    case Env::IOActivity::kCompaction:
    case Env::IOActivity::kFlush:
    case Env::IOActivity::kDBOpen:
    case Env::IOActivity::kVerifyDBChecksum:
    case Env::IOActivity::kVerifyFileChecksums:
      return;
    default:
      // A shared line is written once a tick, whatever the number of readers.
      if (const uint32_t now = files_->Now(); LastUsed() != now) {
        last_used_.store(now, std::memory_order_relaxed);
      }
  }
}

void RustRandomFile::Hint(AccessPattern pattern) {
  pattern_.store(pattern, std::memory_order_relaxed);
  if (native_.load(std::memory_order_relaxed) != nullptr) {
    if (auto native = Here()) {
      (*native)->Hint(pattern);
    }
  }
}

IOStatus RustRandomFile::InvalidateCache(size_t offset, size_t length) {
  if (native_.load(std::memory_order_relaxed) != nullptr) {
    if (auto native = Here()) {
      return (*native)->InvalidateCache(offset, length);
    }
  }
  return IOStatus::OK();
}

IOStatus RustRandomFile::Read(uint64_t offset, size_t n, const IOOptions& options, Slice* result, char* scratch,
                              IODebugContext* dbg) const {
  const uint8_t activity = ToActivity(options.io_activity);
  if (auto native = Here(activity, 1)) {
    Used(options);
    return Counted(
        *native, activity, 1, n, [&] { return (*native)->Read(offset, n, options, result, scratch, dbg); },
        [&] { NoteRead(*native, activity, offset, n); });
  }
  return Guarded([&] {
    *result = Slice(scratch, 0);
    if (scratch == nullptr && n != 0) {
      return NoBuffer();
    }
    lz_status status;
    const size_t read = lz_random_read(Rust(), offset, scratch, n, ToHint(options), &status);
    if (status.code == LZ_OK) {
      *result = Slice(scratch, read);
    }
    return ToIOStatus(status);
  });
}

IOStatus RustRandomFile::MultiRead(FSReadRequest* reqs, size_t num_reqs, const IOOptions& options,
                                   IODebugContext* dbg) {
  const uint8_t activity = ToActivity(options.io_activity);
  if (auto native = Here(activity, num_reqs)) {
    Used(options);
    return Counted(
        *native, activity, num_reqs, Bytes(reqs, num_reqs),
        [&] { return (*native)->MultiRead(reqs, num_reqs, options, dbg); },
        [&] {
          for (size_t i = 0; i < num_reqs; ++i) {
            NoteRead(*native, activity, reqs[i].offset, reqs[i].len);
          }
        });
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
    lz_random_read_many(Rust(), ranges.data(), num_reqs, ToHint(options), &status);
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
                                   IOHandleDeleter* del_fn, IODebugContext* /*dbg*/) {
  if (Here()) {
    return IOStatus::NotSupported();
  }
  return Guarded([&] {
    if (req.scratch == nullptr && req.len != 0) {
      return NoBuffer();
    }
    lz_status status;
    Handle<lz_pending, lz_pending_free> pending(
        lz_random_start_read(Rust(), req.offset, req.len, ToHint(opts), &status));
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
  if (auto native = Here()) {
    return (*native)->Prefetch(offset, n, options, dbg);
  }
  return Guarded([&] {
    lz_status status;
    const bool prefetches = lz_random_prefetch(Rust(), offset, n, ToHint(options), &status) != 0;
    // NotSupported makes RocksDB read ahead into buffers of its own.
    return status.code == LZ_OK && !prefetches ? IOStatus::NotSupported() : ToIOStatus(status);
  });
}

IOStatus RustRandomFile::GetFileSize(uint64_t* result) {
  if (auto native = Here()) {
    return (*native)->GetFileSize(result);
  }
  return Guarded([&] {
    lz_status status;
    *result = lz_random_len(Rust(), &status);
    return ToIOStatus(status);
  });
}

size_t RustRandomFile::GetUniqueId(char* id, size_t max_size) const {
  {
    const std::lock_guard<std::mutex> lock(native_mutex_);
    if (opened_here_) {
      if (rust_owner_ == nullptr) {
        return native_owner_->GetUniqueId(id, max_size);
      }
      if (native_id_.size() > max_size) {
        return 0;
      }
      std::memcpy(id, native_id_.data(), native_id_.size());
      return native_id_.size();
    }
  }
  // A POSIX file's id is three varints. No varint begins with ten 0xff bytes, so neither kind of id is a prefix of the
  // other, and two of ours have one length.
  constexpr size_t kMark = 10;
  constexpr size_t kId = 16;
  if (max_size < kMark + kId || lz_random_unique_id(Rust(), id + kMark) == 0) {
    return 0;
  }
  std::memset(id, 0xff, kMark);
  return kMark + kId;
}

}  // namespace lazurite
