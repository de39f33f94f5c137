// What every file of the shim needs: ownership of Rust handles, statuses across the ABI, and the wall for exceptions.
#pragma once

#include <memory>
#include <new>
#include <string>
#include <utility>

#include "abi.h"
#include "rocksdb/io_status.h"

namespace lazurite {

using ROCKSDB_NAMESPACE::IOStatus;

template <auto Free>
struct FreeWith {
  template <typename T>
  void operator()(T* handle) const noexcept {
    Free(handle);
  }
};

// A Rust handle, freed exactly once.
template <typename T, auto Free>
using Handle = std::unique_ptr<T, FreeWith<Free>>;

inline lz_slice ToSlice(const std::string& s) { return lz_slice{s.data(), s.size()}; }

// A Rust error as the status that RocksDB's own POSIX file system would give (see IOError in RocksDB's io_posix.cc:
// DB::Open and error recovery branch on these), with the token of the typed error at the end of the text.
IOStatus ToIOStatus(const lz_status& status);

// An lz_sink into a std::string.
uint8_t AssignString(void* context, const char* data, size_t len, uint8_t flag) noexcept;

// Runs `body`; what it throws becomes a status that needs no memory. RocksDB is not exception-safe.
template <typename Body>
IOStatus Guarded(Body&& body) noexcept {
  try {
    return std::forward<Body>(body)();
  } catch (const std::bad_alloc&) {
    return IOStatus::IOError(ROCKSDB_NAMESPACE::Status::SubCode::kMemoryLimit);
  } catch (...) {
    return IOStatus::IOError();
  }
}

}  // namespace lazurite
