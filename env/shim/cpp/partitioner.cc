// Where compactions cut their files: between key groups, which the first two bytes of a key name in big-endian order.
//
// What is restored for a part of the key groups takes whole files. A coarse border is one that a part is likely to have, so no
// file goes over it but a small one: there are 16 coarse parts at most. Elsewhere a file of half the target size ends with its
// key group.

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <string>

#include "abi.h"
#include "key_groups.h"
#include "rocksdb/sst_partitioner.h"
#include "rocksdb/utilities/object_registry.h"

namespace {

using ROCKSDB_NAMESPACE::ObjectLibrary;
using ROCKSDB_NAMESPACE::PartitionerRequest;
using ROCKSDB_NAMESPACE::PartitionerResult;
using ROCKSDB_NAMESPACE::Slice;
using ROCKSDB_NAMESPACE::SstPartitioner;
using ROCKSDB_NAMESPACE::SstPartitionerFactory;

constexpr uint32_t kMaxParts = 16;
// A small table is one file, not 16: what goes over a coarse border is less than this part of what is enough elsewhere.
constexpr uint64_t kSmall = 64;
constexpr char kName[] = "lazurite.KeyGroupPartitioner";

struct Cuts {
  uint32_t key_groups;
  uint64_t enough_bytes;

  // As Flink assigns key groups to operators: `operator_for_key_group` in Rust.
  uint32_t CoarsePart(uint32_t group) const {
    return std::min(group, key_groups - 1) * std::min(key_groups, kMaxParts) / key_groups;
  }
};

class Partitioner final : public SstPartitioner {
 public:
  explicit Partitioner(Cuts cuts) : cuts_(cuts) {}

  const char* Name() const override { return kName; }

  PartitionerResult ShouldPartition(const PartitionerRequest& request) override {
    const uint32_t before = lazurite::KeyGroup(*request.prev_user_key);
    const uint32_t group = lazurite::KeyGroup(*request.current_user_key);
    if (before == group) [[likely]] {
      return ROCKSDB_NAMESPACE::kNotRequired;
    }
    const uint64_t least = cuts_.CoarsePart(before) == cuts_.CoarsePart(group) ? cuts_.enough_bytes
                                                                              : cuts_.enough_bytes / kSmall;
    const bool cut = request.current_output_file_size >= least;
    return cut ? ROCKSDB_NAMESPACE::kRequired : ROCKSDB_NAMESPACE::kNotRequired;
  }

  // Moving a file costs nothing, and cutting it all of it: the compaction that reads it next does that.
  bool CanDoTrivialMove(const Slice&, const Slice&) override { return true; }

 private:
  const Cuts cuts_;
};

class Factory final : public SstPartitionerFactory {
 public:
  explicit Factory(Cuts cuts)
      : cuts_(cuts),
        id_(std::string(kName) + ":" + std::to_string(cuts.key_groups) + ":" + std::to_string(cuts.enough_bytes)) {}

  const char* Name() const override { return kName; }

  // What OPTIONS files have, and what Register understands.
  std::string GetId() const override { return id_; }

  std::unique_ptr<SstPartitioner> CreatePartitioner(const SstPartitioner::Context&) const override {
    try {
      return std::make_unique<Partitioner>(cuts_);
    } catch (...) {
      return nullptr;  // its files are not cut
    }
  }

 private:
  const Cuts cuts_;
  const std::string id_;
};

// Makes OPTIONS files with a factory of ours loadable.
void Register() {
  static std::once_flag once;
  std::call_once(once, [] {
    ObjectLibrary::Default()->AddFactory<SstPartitionerFactory>(
        ObjectLibrary::PatternEntry(kName, false).AddNumber(":").AddNumber(":"),
        [](const std::string& id, std::unique_ptr<SstPartitionerFactory>* guard, std::string*) {
          const char* text = id.c_str() + sizeof(kName);
          char* rest = nullptr;
          const uint64_t key_groups = std::strtoull(text, &rest, 10);
          const uint64_t enough_bytes = std::strtoull(rest + 1, nullptr, 10);
          const uint64_t bounded = std::clamp<uint64_t>(key_groups, 1, 1 << 16);
          guard->reset(new Factory(Cuts{static_cast<uint32_t>(bounded), enough_bytes}));
          return guard->get();
        });
  });
}

}  // namespace

extern "C" {

uint8_t lz_cut_at_key_groups(rocksdb_options_t* options, uint16_t key_groups, uint64_t enough_bytes) noexcept {
  try {
    Register();
    const Cuts cuts{std::max<uint32_t>(key_groups, 1), enough_bytes};
    options->rep.sst_partitioner_factory = std::make_shared<Factory>(cuts);
    return 1;
  } catch (...) {
    return 0;
  }
}

}  // extern "C"
