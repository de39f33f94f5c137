// Compactions that leave out keys of other key groups than a column's own. A file that was written when the column had more of
// them may still hold such keys, which nobody reads.

#include <atomic>
#include <memory>
#include <string>

#include "abi.h"
#include "key_groups.h"
#include "rocksdb/compaction_filter.h"

namespace {

using ROCKSDB_NAMESPACE::CompactionFilter;
using ROCKSDB_NAMESPACE::CompactionFilterFactory;
using ROCKSDB_NAMESPACE::Slice;

struct Range {
  uint32_t first, last;
};

class Filter final : public CompactionFilter {
 public:
  explicit Filter(Range range) : range_(range) {}

  const char* Name() const override { return "lazurite.KeyGroupClip"; }

  // What is outside is skipped as a whole and leaves no tombstones. That may show older versions, of which nobody asks.
  Decision FilterV2(int, const Slice& key, ValueType, const Slice&, std::string*,
                    std::string* skip_until) const override {
    const uint32_t group = lazurite::KeyGroup(key);
    if (group - range_.first <= range_.last - range_.first) [[likely]] {
      return Decision::kKeep;
    }
    try {
      if (group < range_.first) {
        skip_until->assign({static_cast<char>(range_.first >> 8), static_cast<char>(range_.first)});
      } else {
        skip_until->assign(1, '\xff');  // key groups are below 32768
      }
      return Decision::kRemoveAndSkipUntil;
    } catch (...) {
      return Decision::kKeep;
    }
  }

 private:
  const Range range_;
};

class Factory final : public CompactionFilterFactory {
 public:
  Factory(Range range, std::shared_ptr<std::atomic<bool>> on) : range_(range), on_(std::move(on)) {}

  const char* Name() const override { return "lazurite.KeyGroupClip"; }

  std::unique_ptr<CompactionFilter> CreateCompactionFilter(const CompactionFilter::Context&) override {
    if (!on_->load(std::memory_order_relaxed)) {
      return nullptr;
    }
    try {
      return std::make_unique<Filter>(range_);
    } catch (...) {
      return nullptr;  // nothing is left out
    }
  }

 private:
  const Range range_;
  const std::shared_ptr<std::atomic<bool>> on_;
};

}  // namespace

struct lz_clip {
  std::shared_ptr<std::atomic<bool>> on;
};

extern "C" {

lz_clip* lz_clip_install(rocksdb_options_t* options, uint16_t first, uint16_t last) noexcept {
  try {
    auto on = std::make_shared<std::atomic<bool>>(true);
    auto clip = std::make_unique<lz_clip>(lz_clip{on});
    options->rep.compaction_filter_factory = std::make_shared<Factory>(Range{first, last}, std::move(on));
    return clip.release();
  } catch (...) {
    return nullptr;
  }
}

void lz_clip_set(const lz_clip* clip, uint8_t on) noexcept { clip->on->store(on != 0, std::memory_order_relaxed); }

void lz_clip_free(lz_clip* clip) noexcept { delete clip; }

}  // extern "C"
