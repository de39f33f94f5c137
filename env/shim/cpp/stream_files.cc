#include "stream_files.h"

namespace lazurite {

IOStatus RustSequentialFile::Read(size_t n, const IOOptions& /*options*/, Slice* result, char* scratch,
                                  IODebugContext* /*dbg*/) {
  return Guarded([&] {
    lz_status status;
    const size_t read = lz_sequential_read(file_.get(), scratch, n, &status);
    *result = Slice(scratch, status.code == LZ_OK ? read : 0);
    return ToIOStatus(status);
  });
}

IOStatus RustSequentialFile::Skip(uint64_t n) {
  return Guarded([&] {
    lz_status status;
    lz_sequential_skip(file_.get(), n, &status);
    return ToIOStatus(status);
  });
}

IOStatus RustWritableFile::Append(const Slice& data, const IOOptions& /*options*/, IODebugContext* /*dbg*/) {
  return Guarded([&] {
    lz_status status;
    lz_writable_append(file_.get(), lz_slice{data.data(), data.size()}, &status);
    return ToIOStatus(status);
  });
}

IOStatus RustWritableFile::Truncate(uint64_t size, const IOOptions& /*options*/, IODebugContext* /*dbg*/) {
  return Guarded([&] {
    lz_status status;
    lz_writable_truncate(file_.get(), size, &status);
    return ToIOStatus(status);
  });
}

IOStatus RustWritableFile::Close(const IOOptions& /*options*/, IODebugContext* /*dbg*/) {
  return Guarded([&] {
    if (closed_) {
      return IOStatus::OK();
    }
    closed_ = true;
    lz_status status;
    lz_writable_close(file_.get(), &status);
    return ToIOStatus(status);
  });
}

IOStatus RustWritableFile::Flush(const IOOptions& /*options*/, IODebugContext* /*dbg*/) {
  return Guarded([&] {
    lz_status status;
    lz_writable_flush(file_.get(), &status);
    return ToIOStatus(status);
  });
}

IOStatus RustWritableFile::Sync(const IOOptions& /*options*/, IODebugContext* /*dbg*/) {
  return Guarded([&] {
    lz_status status;
    lz_writable_sync(file_.get(), &status);
    return ToIOStatus(status);
  });
}

uint64_t RustWritableFile::GetFileSize(const IOOptions& /*options*/, IODebugContext* /*dbg*/) {
  return lz_writable_len(file_.get());
}

IOStatus RustDirectory::Fsync(const IOOptions& /*options*/, IODebugContext* /*dbg*/) {
  return Guarded([&] {
    lz_status status;
    lz_env_sync_dir(env_.get(), ToSlice(path_), &status);
    return ToIOStatus(status);
  });
}

}  // namespace lazurite
