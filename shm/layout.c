#include "layout.h"

#include "error.h"
#include "histogram.h"

#include <ctype.h>
#include <string.h>

#define FNV_OFFSET_BASIS 0xcbf29ce484222325ull
#define FNV_PRIME        0x100000001b3ull

uint64_t bus_layout_hash_bytes(uint64_t hash, const void *bytes, size_t size)
{
  const unsigned char *at = bytes;
  for (size_t i = 0; i < size; i++)
    hash = (hash ^ at[i]) * FNV_PRIME;
  return hash;
}

uint64_t bus_layout_hash(const struct bus_member_header *header, const struct bus_entry *entries)
{
  uint64_t hash = FNV_OFFSET_BASIS;
  hash = bus_layout_hash_bytes(hash, &header->abi_version, sizeof header->abi_version);
  hash = bus_layout_hash_bytes(hash, &header->file_size, sizeof header->file_size);
  hash = bus_layout_hash_bytes(hash, header->name, sizeof header->name);
  hash = bus_layout_hash_bytes(hash, header->kind, sizeof header->kind);
  hash = bus_layout_hash_bytes(hash, &header->identity, sizeof header->identity);
  return bus_layout_hash_bytes(hash, entries, (size_t)header->entry_count * sizeof *entries);
}

static bool is_power_of_two(uint64_t value)
{
  return value && !(value & (value - 1));
}

uint64_t bus_layout_object_bytes(const struct bus_entry *entry)
{
  bool lines = entry->record_size >= BUS_CACHE_LINE_BYTES &&
               entry->record_size <= BUS_RECORD_BYTES_MAX &&
               entry->record_size % BUS_CACHE_LINE_BYTES == 0;
  uint64_t depth = entry->depth;
  switch (entry->type) {
  case BUS_OBJECT_RING:
    if (!lines || !is_power_of_two(depth) || depth < 4 || depth > BUS_RING_DEPTH_MAX)
      return 0;
    if (entry->policy < BUS_POLICY_WAIT || entry->policy > BUS_POLICY_OVERWRITE)
      return 0;
    return BUS_RING_HEADER_BYTES + depth * entry->record_size;
  case BUS_OBJECT_BOARD: /* board.h knows signals only */
    return entry->record_type == BUS_RECORD_SIGNAL &&
                   entry->record_size == sizeof(struct bus_signal) && depth >= 1 && depth <= 65536
               ? depth * entry->record_size
               : 0;
  case BUS_OBJECT_POSITION:
    return depth == 1 ? sizeof(struct bus_position) : 0;
  case BUS_OBJECT_COUNTER:
    return depth == 1 ? sizeof(uint64_t) : 0;
  case BUS_OBJECT_HISTOGRAM:
    return depth == 1 ? sizeof(struct bus_histogram) : 0;
  case BUS_OBJECT_SYMBOLS:
    return depth >= 1 && depth <= 65535 ? BUS_CACHE_LINE_BYTES + depth * sizeof(struct bus_symbol)
                                        : 0;
  case BUS_OBJECT_TEXT:
    return depth >= 1 && depth <= 65536 ? depth : 0;
  case BUS_OBJECT_TABLE:
    return lines && depth >= 1 && depth <= 65536 ? depth * entry->record_size : 0;
  case BUS_OBJECT_STAGING:
    return entry->record_size >= BUS_STAGING_ALIGNMENT && entry->record_size <= 16u << 20 &&
                   entry->record_size % BUS_STAGING_ALIGNMENT == 0 && depth >= 4 && depth <= 1024
               ? BUS_STAGING_HEADER_BYTES + depth * entry->record_size
               : 0;
  default:
    return 0;
  }
}

uint64_t bus_layout_object_alignment(uint32_t type)
{
  return type == BUS_OBJECT_COUNTER   ? sizeof(uint64_t)
         : type == BUS_OBJECT_STAGING ? BUS_STAGING_ALIGNMENT
                                      : BUS_CACHE_LINE_BYTES;
}

static bool is_terminated(const char *text, size_t size)
{
  return memchr(text, '\0', size) != NULL;
}

bool bus_layout_name_is_valid(const char *name)
{
  size_t length = 0;
  if (!name || name[0] == '.')
    return false;
  for (; name[length]; length++) {
    unsigned char c = (unsigned char)name[length];
    if (length + 1 >= BUS_NAME_BYTES || !(isalnum(c) || c == '.' || c == '_' || c == '-'))
      return false;
  }
  return length > 0;
}

static int check_header(const struct bus_member_header *header, uint64_t file_size)
{
  if (header->magic == 0)
    return bus_error_set(BUS_ERROR_NOT_READY, "no magic: being created, or deleted");
  if (header->magic != BUS_MAGIC)
    return bus_error_set(BUS_ERROR_CORRUPT, "not a signal-bus member file (magic %016llx)",
                         (unsigned long long)header->magic);
  if (header->abi_version != BUS_ABI_VERSION)
    return bus_error_set(
        BUS_ERROR_VERSION,
        "file has ABI version %u, this program speaks %u; run both from one release",
        header->abi_version, BUS_ABI_VERSION);
  if (header->header_size != BUS_HEADER_BYTES || header->entry_size != BUS_ENTRY_BYTES ||
      header->entry_offset != BUS_HEADER_BYTES || header->entry_count > BUS_ENTRIES_MAX)
    return bus_error_set(BUS_ERROR_CORRUPT, "header sizes contradict the ABI version");
  if (header->file_size != file_size || file_size > BUS_FILE_BYTES_MAX ||
      file_size < BUS_HEADER_BYTES + (uint64_t)header->entry_count * BUS_ENTRY_BYTES)
    return bus_error_set(BUS_ERROR_CORRUPT, "file is %llu bytes, its header says %llu",
                         (unsigned long long)file_size, (unsigned long long)header->file_size);
  if (!is_terminated(header->name, sizeof header->name) ||
      !is_terminated(header->kind, sizeof header->kind) ||
      !is_terminated(header->boot_id, sizeof header->boot_id) ||
      !bus_layout_name_is_valid(header->name))
    return bus_error_set(BUS_ERROR_CORRUPT, "header has an invalid name");
  return BUS_OK;
}

static int check_entry(const struct bus_entry *entry, uint64_t file_size)
{
  if (!is_terminated(entry->name, sizeof entry->name) ||
      !is_terminated(entry->peer, sizeof entry->peer) ||
      !is_terminated(entry->unit, sizeof entry->unit) || !bus_layout_name_is_valid(entry->name) ||
      (entry->peer[0] && !bus_layout_name_is_valid(entry->peer)))
    return bus_error_set(BUS_ERROR_CORRUPT, "a directory entry has an invalid name");
  uint64_t bytes = bus_layout_object_bytes(entry);
  if (bytes == 0 || bytes != entry->size)
    return bus_error_set(BUS_ERROR_CORRUPT, "object '%s' has impossible dimensions", entry->name);
  if (entry->offset % bus_layout_object_alignment(entry->type) || entry->offset > file_size ||
      bytes > file_size - entry->offset)
    return bus_error_set(BUS_ERROR_CORRUPT, "object '%s' lies outside the file", entry->name);
  return BUS_OK;
}

int bus_layout_check(const struct bus_member_header *header, const struct bus_entry *entries,
                     uint64_t file_size)
{
  int error = check_header(header, file_size);
  if (error || !entries)
    return error;
  /* Offsets must ascend in directory order, so overlap is a comparison with the one before. */
  uint64_t end = BUS_HEADER_BYTES + (uint64_t)header->entry_count * BUS_ENTRY_BYTES;
  for (uint32_t i = 0; i < header->entry_count; i++) {
    error = check_entry(&entries[i], file_size);
    if (error)
      return error;
    if (entries[i].offset < end)
      return bus_error_set(BUS_ERROR_CORRUPT, "object '%s' overlaps another", entries[i].name);
    end = entries[i].offset + entries[i].size;
  }
  if (bus_layout_hash(header, entries) != header->layout_hash)
    return bus_error_set(BUS_ERROR_CORRUPT, "layout hash does not match the directory");
  return BUS_OK;
}

static const char *name_of(uint32_t value, const char *const *names, size_t count)
{
  return value < count && names[value] ? names[value] : "?";
}

const char *bus_state_name(uint32_t state)
{
  static const char *const names[] = {NULL, "boot", "run", "halt", "fail"};
  return name_of(state, names, BUS_COUNT_OF(names));
}

const char *bus_backing_name(uint32_t backing)
{
  static const char *const names[] = {NULL, "4 KiB pages", "transparent huge pages", "hugetlbfs"};
  return name_of(backing, names, BUS_COUNT_OF(names));
}

const char *bus_object_type_name(uint32_t type)
{
  static const char *const names[] = {NULL,    "ring",    "position", "counter", "histogram",
                                      "board", "symbols", "text",     "staging", "table"};
  return name_of(type, names, BUS_COUNT_OF(names));
}

const char *bus_record_type_name(uint32_t type)
{
  static const char *const names[] = {"raw", "feature",     "signal",
                                      "gap", "llm-request", "llm-reply"};
  return name_of(type, names, BUS_COUNT_OF(names));
}

const char *bus_policy_name(uint32_t policy)
{
  static const char *const names[] = {NULL, "wait", "drop-newest", "overwrite"};
  return name_of(policy, names, BUS_COUNT_OF(names));
}
