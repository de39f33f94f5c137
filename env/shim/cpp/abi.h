// The C ABI between the C++ file system and the Rust Env: plain structs, opaque handles and functions, nothing else.
// It is written by hand on both sides; src/abi.rs is its mirror, and src/abi.rs asserts the layouts.
//
// Rules on both sides:
//   * Nothing unwinds across it: Rust catches panics, C++ catches exceptions.
//   * A handle is owned by C++ from the call that returned it to the matching *_free or *_release, called once.
//   * A slice or a path is borrowed for the time of the call. It is bytes, not a NUL-terminated string.
//   * A function that takes an lz_status always fills its code; text and token only where the code is not LZ_OK.
#pragma once

#include <stddef.h>
#include <stdint.h>

extern "C" {

typedef struct lz_env lz_env;
typedef struct lz_sequential lz_sequential;
typedef struct lz_random lz_random;
typedef struct lz_pending lz_pending;
typedef struct lz_writable lz_writable;
typedef struct lz_lock lz_lock;
typedef struct lz_local_files lz_local_files;

// Activities that are counted by themselves: those of Rust's `Activity`, and room for more.
#define LZ_ACTIVITIES 16

typedef struct {
  uint64_t reads;
  uint64_t bytes;
  // Calls that were timed, and what they took together.
  uint64_t sampled;
  uint64_t sampled_nanos;
} lz_local_reads;
typedef struct rocksdb_env_t rocksdb_env_t;
typedef struct rocksdb_t rocksdb_t;
typedef struct rocksdb_options_t rocksdb_options_t;
typedef struct rocksdb_column_family_handle_t rocksdb_column_family_handle_t;

// What C++ has to tell apart; the whole error is found again by its token.
enum lz_code : int32_t {
  LZ_OK = 0,
  LZ_IO = 1,
  LZ_NOT_FOUND = 2,
  LZ_ALREADY_EXISTS = 3,
  LZ_PERMISSION_DENIED = 4,
  LZ_LOCKED = 5,
  LZ_NO_SPACE = 6,
  LZ_CORRUPTION = 7,
  LZ_UNSUPPORTED = 8,
};

#define LZ_TEXT_MAX 480

typedef struct {
  int32_t code;
  uint8_t temporary;  // 1: the same operation may succeed later
  uint32_t text_len;
  uint64_t token;
  char text[LZ_TEXT_MAX];
} lz_status;

typedef struct {
  const char* data;
  size_t len;
} lz_slice;

// The numbers of lazurite_env::Activity and lazurite_env::BlockKind.
typedef struct {
  uint8_t activity;
  uint8_t block;
} lz_hint;

typedef struct {
  uint64_t len;
  uint64_t links;
  uint64_t modified_s;
  uint8_t is_dir;
} lz_stat;

typedef struct {
  uint64_t offset;
  char* buf;
  size_t len;
  size_t read;
  lz_status status;
} lz_range;

// Takes some bytes; `flag` says what the caller documents. Returns 0 where it could not take them (out of memory).
typedef uint8_t (*lz_sink)(void* context, const char* data, size_t len, uint8_t flag);

// ---- Rust, called by C++ -------------------------------------------------------------------------------------------

void lz_env_release(lz_env* env);
uint8_t lz_env_native_path(const lz_env* env, lz_slice path, void* context, lz_sink sink);
lz_sequential* lz_env_open_sequential(const lz_env* env, lz_slice path, lz_status* status);
lz_random* lz_env_open_random(const lz_env* env, lz_slice path, lz_status* status);
lz_writable* lz_env_create(const lz_env* env, lz_slice path, lz_status* status);
lz_writable* lz_env_open_append(const lz_env* env, lz_slice path, lz_status* status);
void lz_env_rename(const lz_env* env, lz_slice from, lz_slice to, lz_status* status);
void lz_env_link(const lz_env* env, lz_slice from, lz_slice to, lz_status* status);
void lz_env_delete(const lz_env* env, lz_slice path, lz_status* status);
void lz_env_create_dir(const lz_env* env, lz_slice path, lz_status* status);
void lz_env_delete_dir(const lz_env* env, lz_slice path, lz_status* status);
void lz_env_list(const lz_env* env, lz_slice path, void* context, lz_sink sink,
                 lz_status* status);  // flag: 1 for a directory
void lz_env_stat(const lz_env* env, lz_slice path, lz_stat* out, lz_status* status);
lz_lock* lz_env_lock(const lz_env* env, lz_slice path, lz_status* status);
void lz_lock_free(lz_lock* lock);
void lz_env_sync_dir(const lz_env* env, lz_slice path, lz_status* status);
uint64_t lz_env_free_space(const lz_env* env, lz_slice path, lz_status* status);

size_t lz_sequential_read(const lz_sequential* file, char* buf, size_t len, lz_status* status);
void lz_sequential_skip(const lz_sequential* file, uint64_t n, lz_status* status);
void lz_sequential_free(lz_sequential* file);

size_t lz_random_read(const lz_random* file, uint64_t offset, char* buf, size_t len, lz_hint hint, lz_status* status);
void lz_random_read_many(const lz_random* file, lz_range* ranges, size_t count, lz_hint hint, lz_status* status);
lz_pending* lz_random_start_read(const lz_random* file, uint64_t offset, size_t len, lz_hint hint, lz_status* status);
uint8_t lz_random_prefetch(const lz_random* file, uint64_t offset, size_t len, lz_hint hint,
                           lz_status* status);  // 0: does not prefetch
uint64_t lz_random_len(const lz_random* file, lz_status* status);
uint8_t lz_random_unique_id(const lz_random* file, char* id16);  // 0: has none
uint8_t lz_random_native_path(const lz_random* file, void* context, lz_sink sink);
void lz_random_free(lz_random* file);

size_t lz_pending_wait(lz_pending* pending, char* buf, size_t len, lz_status* status);  // frees `pending`
void lz_pending_free(lz_pending* pending);

// Safe to call from several threads at once: a writable file carries a lock of its own.
void lz_writable_append(const lz_writable* file, lz_slice data, lz_status* status);
void lz_writable_flush(const lz_writable* file, lz_status* status);
void lz_writable_sync(const lz_writable* file, lz_status* status);
void lz_writable_truncate(const lz_writable* file, uint64_t len, lz_status* status);
uint64_t lz_writable_len(const lz_writable* file);
void lz_writable_close(const lz_writable* file, lz_status* status);
void lz_writable_free(lz_writable* file);

// ---- C++, called by Rust -------------------------------------------------------------------------------------------

// Takes `env`, also where it fails (null). `*files` belongs to the caller.
rocksdb_env_t* lz_rocksdb_env_create(lz_env* env, lz_local_files** files) noexcept;

// What is open on the local disk; see cpp/local_files.h. Safe to call from several threads at once.
// Writes LZ_ACTIVITIES sums, each at the number of its activity.
void lz_local_files_reads(const lz_local_files* files, lz_local_reads* sums) noexcept;
void lz_local_files_keep_releasable(const lz_local_files* files) noexcept;
uint8_t lz_local_files_release(const lz_local_files* files, lz_slice path) noexcept;  // 0: a descriptor stays open
uint32_t lz_local_files_idle(const lz_local_files* files, lz_slice path) noexcept;
void lz_local_files_tick(const lz_local_files* files) noexcept;
// Gives `sink` a byte for each chunk of 64 KiB; none where nothing was noted. 0: out of memory.
uint8_t lz_local_files_take_heat(const lz_local_files* files, lz_slice path, uint32_t halvings, void* context,
                                 lz_sink sink) noexcept;
void lz_local_files_free(lz_local_files* files) noexcept;

typedef struct {
  uint8_t unique_id[24];
  uint64_t file_len;
  uint64_t tail_offset;
  uint64_t num_entries;
  uint64_t num_deletions;
  uint64_t num_range_deletions;
} lz_sst_properties;

// On failure the whole text of RocksDB's status goes to `sink`.
int32_t lz_sst_info(rocksdb_env_t* env, lz_slice path, lz_sst_properties* out, void* context, lz_sink sink) noexcept;

// Told of a block of the file of that index, where it begins, and what it takes of memory. Must not unwind.
typedef void (*lz_cached_block_sink)(void* context, size_t file, uint64_t offset, uint64_t memory);

// `unique_ids`: 24 bytes for each file. 1, or 0 where memory ran out; some blocks may have been told then.
uint8_t lz_cached_blocks(rocksdb_t* db, const char* unique_ids, size_t count, void* context,
                         lz_cached_block_sink sink) noexcept;

// Told of each live table file: its name and how often users read it. Must not unwind.
typedef void (*lz_file_reads_sink)(void* context, const char* name, size_t name_len, uint64_t reads);

// 1, or 0 where memory ran out; some files may have been told then.
uint8_t lz_file_reads(rocksdb_t* db, void* context, lz_file_reads_sink sink) noexcept;

// A walk over spans of keys of one database, one after another, all as of one moment.
typedef struct lz_entries lz_entries;

// The keys of a column from `lower` up to but not `upper`.
typedef struct {
  rocksdb_column_family_handle_t* column;
  lz_slice lower;
  lz_slice upper;
} lz_span;

typedef struct {
  lz_slice key;
  lz_slice value;
} lz_entry;

// Null where memory ran out. Copies the bounds.
lz_entries* lz_entries_open(rocksdb_t* db, const lz_span* spans, size_t count, uint8_t async_io) noexcept;
// Goes to the next entry, which stays until the next call: 1, or 0 at the end and at an error, as lz_entries_error tells.
uint8_t lz_entries_next(lz_entries* entries, lz_entry* entry) noexcept;
// Gives the sink the text of the error; nothing where there is none. What the sink answers is of no interest.
void lz_entries_error(const lz_entries* entries, void* context, lz_sink sink) noexcept;
void lz_entries_free(lz_entries* entries) noexcept;

// Has compactions of the columns of `options` cut their files between key groups. 1, or 0 where memory ran out.
uint8_t lz_cut_at_key_groups(rocksdb_options_t* options, uint16_t key_groups, uint64_t enough_bytes) noexcept;

// Whether compactions of a column leave out what is outside its key groups.
typedef struct lz_clip lz_clip;

// For the columns of `options`, and switched on. Null where memory ran out.
lz_clip* lz_clip_install(rocksdb_options_t* options, uint16_t first, uint16_t last) noexcept;
void lz_clip_set(const lz_clip* clip, uint8_t on) noexcept;
void lz_clip_free(lz_clip* clip) noexcept;

}  // extern "C"
