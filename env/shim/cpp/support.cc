#include "support.h"

namespace lazurite {

IOStatus ToIOStatus(const lz_status& status) {
  if (status.code == LZ_OK) {
    return IOStatus::OK();
  }
  std::string text(status.text, status.text_len);
  text += " [lazurite-cause:" + std::to_string(status.token) + "]";
  IOStatus result;
  switch (status.code) {
    case LZ_NOT_FOUND:
      result = IOStatus::PathNotFound(text);
      break;
    case LZ_NO_SPACE:
      result = IOStatus::NoSpace(text);
      break;
    case LZ_CORRUPTION:
      result = IOStatus::Corruption(text);
      break;
    case LZ_UNSUPPORTED:
      result = IOStatus::NotSupported(text);
      break;
    case LZ_LOCKED:
      result = IOStatus::IOError("lock hold by another process or handle", text);
      break;
    default:
      result = IOStatus::IOError(text);
      break;
  }
  // As on POSIX, a full disk is worth another attempt. A temporary remote failure is too: RocksDB then resumes by
  // itself after a background error instead of refusing writes until the database is reopened.
  result.SetRetryable(status.code == LZ_NO_SPACE || status.temporary != 0);
  return result;
}

uint8_t AssignString(void* context, const char* data, size_t len, uint8_t /*flag*/) noexcept {
  try {
    static_cast<std::string*>(context)->assign(data, len);
    return 1;
  } catch (...) {
    return 0;
  }
}

}  // namespace lazurite
