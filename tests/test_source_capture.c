#include "producers/source_capture.h"
#include "tests/producer_fixture.h"

#include <sys/stat.h>
#include <zlib.h>

static char directory[] = "/tmp/bus_capture_XXXXXX";
static char path[64];

static void make_directory(void)
{
  cr_assert_not_null(mkdtemp(directory));
  snprintf(path, sizeof path, "%s/capture", directory);
}

static void remove_directory(void)
{
  unlink(path);
  rmdir(directory);
}

TestSuite(source_capture, .init = make_directory, .fini = remove_directory);

static void write_plain(const char *text, size_t length)
{
  FILE *file = fopen(path, "wb");
  cr_assert_not_null(file);
  cr_assert_eq(fwrite(text, 1, length, file), length);
  cr_assert_eq(fclose(file), 0);
}

static void write_gzip(const char *text, size_t length)
{
  gzFile file = gzopen(path, "wb");
  cr_assert_not_null(file);
  cr_assert_eq(gzwrite(file, text, (unsigned)length), (int)length);
  cr_assert_eq(gzclose(file), Z_OK);
}

static void expect_line(struct bus_source *source, const char *expected)
{
  const char *line;
  size_t length;
  cr_assert_eq(bus_source_next(source, &line, &length), 1, "%s", bus_error_message());
  cr_expect_eq(length, strlen(expected));
  cr_expect_eq(memcmp(line, expected, length), 0);
}

static void expect_end(struct bus_source *source)
{
  const char *line;
  size_t length;
  cr_expect_eq(bus_source_next(source, &line, &length), 0);
  cr_expect_eq(bus_source_next(source, &line, &length), 0);
}

Test(source_capture, reads_plain_and_gzip)
{
  static const char text[] = "one\n\ntwo\nlast without newline";
  for (int is_gzip = 0; is_gzip < 2; is_gzip++) {
    if (is_gzip)
      write_gzip(text, sizeof text - 1);
    else
      write_plain(text, sizeof text - 1);
    struct bus_source *source = bus_source_capture_open(path);
    cr_assert_not_null(source, "%s", bus_error_message());
    expect_line(source, "one");
    expect_line(source, "two");
    expect_line(source, "last without newline");
    expect_end(source);
    cr_expect_eq(source->consumed_bytes(source), source->total_bytes);
    cr_expect_eq(source->oversize_lines, 0);
    bus_source_close(source);
  }
}

Test(source_capture, reads_an_empty_file)
{
  write_plain("", 0);
  struct bus_source *source = bus_source_capture_open(path);
  cr_assert_not_null(source, "%s", bus_error_message());
  expect_end(source);
  bus_source_close(source);
}

/* A line at the limit is given out; longer ones, up to many buffers long, are skipped. */
Test(source_capture, skips_lines_that_are_too_long)
{
  static const size_t sizes[] = {BUS_SOURCE_CAPTURE_LINE_BYTES_MAX,
                                 BUS_SOURCE_CAPTURE_LINE_BYTES_MAX + 1,
                                 (1u << 20) - 1,
                                 1u << 20,
                                 (1u << 20) + 1,
                                 5u << 20};
  char *text = malloc(16u << 20);
  size_t used = 0;
  for (size_t i = 0; i < BUS_COUNT_OF(sizes); i++) {
    memset(text + used, 'x', sizes[i]);
    used += sizes[i];
    used += (size_t)sprintf(text + used, "\nshort\n");
  }
  write_plain(text, used);
  struct bus_source *source = bus_source_capture_open(path);
  const char *line;
  size_t length;
  cr_assert_eq(bus_source_next(source, &line, &length), 1);
  cr_expect_eq(length, BUS_SOURCE_CAPTURE_LINE_BYTES_MAX);
  for (size_t i = 0; i < BUS_COUNT_OF(sizes); i++)
    expect_line(source, "short");
  expect_end(source);
  cr_expect_eq(source->oversize_lines, BUS_COUNT_OF(sizes) - 1);
  bus_source_close(source);
  free(text);
}

static void expect_refusal(const char *what)
{
  struct bus_source *source = bus_source_capture_open(path);
  if (source == NULL) {
    cr_expect_not_null(strstr(bus_error_message(), path), "%s: %s", what, bus_error_message());
    return;
  }
  const char *line;
  size_t length;
  int code;
  while ((code = bus_source_next(source, &line, &length)) == 1)
    ;
  cr_expect_eq(code, BUS_ERROR_FORMAT, "%s: %d", what, code);
  cr_expect_not_null(strstr(bus_error_message(), path), "%s: %s", what, bus_error_message());
  bus_source_close(source);
}

Test(source_capture, explains_damaged_gzip)
{
  enum { BYTES = 300000 };
  char *text = malloc(BYTES);
  uint64_t state = 1;
  for (size_t i = 0; i < BYTES; i++) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    text[i] = i % 100 == 99 ? '\n' : (char)('a' + (state >> 60));
  }
  write_gzip(text, BYTES);
  struct stat status;
  cr_assert_eq(stat(path, &status), 0);
  char *bytes = malloc((size_t)status.st_size);
  FILE *file = fopen(path, "rb");
  cr_assert_eq(fread(bytes, 1, (size_t)status.st_size, file), (size_t)status.st_size);
  fclose(file);

  write_plain(bytes, (size_t)status.st_size / 2);
  expect_refusal("half a file");
  write_plain(bytes, (size_t)status.st_size - 4);
  expect_refusal("without the end of the trailer");
  bytes[status.st_size / 2] ^= 0x55;
  write_plain(bytes, (size_t)status.st_size);
  expect_refusal("changed in the middle");
  bytes[2] = 99;
  write_plain(bytes, (size_t)status.st_size);
  expect_refusal("unknown method");
  free(bytes);
  free(text);
}

Test(source_capture, explains_absent_files)
{
  cr_expect_null(bus_source_capture_open(path));
  cr_expect_not_null(strstr(bus_error_message(), path));
  cr_expect_null(bus_source_capture_open(directory));
  cr_expect_not_null(strstr(bus_error_message(), directory));
  bus_source_close(NULL);
}

Test(source_capture, reads_the_real_captures_without_allocating)
{
  static const struct {
    const char *name;
    size_t lines;
    size_t bytes;
  } files[] = {{SPOT_CAPTURE, 41249, 11104853}, {USDM_CAPTURE, 74655, 23276504}};
  for (size_t i = 0; i < BUS_COUNT_OF(files); i++) {
    struct bus_source *source = bus_source_capture_open(data_path(files[i].name));
    cr_assert_not_null(source, "%s", bus_error_message());
    size_t before = allocation_count;
    size_t lines = 0;
    size_t bytes = 0;
    const char *line;
    size_t length;
    while (bus_source_next(source, &line, &length) == 1) {
      lines++;
      bytes += length + 1;
    }
    cr_expect_eq(allocation_count, before);
    cr_expect_eq(lines, files[i].lines);
    cr_expect_eq(bytes, files[i].bytes);
    bus_source_close(source);
  }
}
