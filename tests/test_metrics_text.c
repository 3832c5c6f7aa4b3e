/* Prometheus's text of samples that real buses seldom give. */
#include "tools/metrics_text.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static struct bus_histogram histogram;
static struct busctl_member members[] = {{.name = "feed",
                                          .kind = "a\"b\\c",
                                          .attached = true,
                                          .status = BUS_NEIGHBOUR_STALLED,
                                          .state = 77,
                                          .epoch = UINT64_MAX,
                                          .heartbeat_age_ns = 1500000001,
                                          .core = -1,
                                          .numa_node = 1,
                                          .backing = 99},
                                         {.name = "notes.txt", .error = BUS_ERROR_CORRUPT}};
static struct busctl_item items[16];
static struct busctl_sample sample = {.members = members, .member_count = 2, .items = items};

static char *write_text(void)
{
  static char *text; /* lasts longer than the call, as what it points to does */
  static size_t bytes;
  FILE *file = open_memstream(&text, &bytes);
  metrics_text_write(file, "/b\"us", &sample, 2500000000u);
  fclose(file);
  return text;
}

static struct busctl_item *add_item(uint32_t type, const char *name, const char *unit)
{
  struct busctl_item *item = &items[sample.item_count++];
  item->type = type;
  strcpy(item->name, name);
  strcpy(item->unit, unit);
  if (type == BUS_OBJECT_HISTOGRAM)
    item->histogram = &histogram;
  return item;
}

static int occurrences(const char *text, const char *part)
{
  int count = 0;
  for (; (text = strstr(text, part)) != NULL; text++)
    count++;
  return count;
}

Test(metrics_text, labels_are_escaped_and_foreign_files_counted)
{
  char *text = write_text();
  cr_expect(strstr(text, "kind=\"a\\\"b\\\\c\",backing=\"?\",core=\"-1\",numa_node=\"1\""), "%s",
            text);
  cr_expect(strstr(text, "directory=\"/b\\\"us\"} 1\n"));
  cr_expect(strstr(text, "\nsignalbus_foreign_files 1\n"));
  cr_expect_not(strstr(text, "notes.txt"));
  cr_expect(
      strstr(text, "\nsignalbus_member_heartbeat_age_seconds{member=\"feed\"} 1.500000001\n"));
  cr_expect(strstr(text, "\nsignalbus_member_epoch{member=\"feed\"} 18446744073709551615\n"));
  cr_expect(strstr(text, "\nsignalbus_member_up{member=\"feed\"} 0\n"));
  cr_expect(strstr(text, "\nsignalbus_member_status{member=\"feed\",status=\"stalled\"} 1\n"));
  cr_expect(strstr(text, "\nsignalbus_sample_age_seconds 2.500000000\n"));
  free(text);
}

Test(metrics_text, a_bus_that_cannot_be_read_is_a_metric)
{
  static char *text; /* lasts longer than the call, as what it points to does */
  static size_t bytes;
  FILE *file = open_memstream(&text, &bytes);
  metrics_text_write(file, "/bus", NULL, 0);
  fclose(file);
  cr_expect(strstr(text, "\nsignalbus_up 0\n"));
  cr_expect_not(strstr(text, "member"));
  free(text);
}

Test(metrics_text, units_choose_the_family)
{
  add_item(BUS_OBJECT_COUNTER, "read", "bytes")->counter = 7;
  add_item(BUS_OBJECT_COUNTER, "slept", "ns")->counter = 1000000001;
  add_item(BUS_OBJECT_COUNTER, "cycle_ns_max", "ns")->counter = 250;
  add_item(BUS_OBJECT_COUNTER, "queue_max", "records")->counter = 9;
  add_item(BUS_OBJECT_COUNTER, "odd", "a\"b")->counter = UINT64_MAX;
  char *text = write_text();
  cr_expect(strstr(text, "\nsignalbus_member_bytes_total{member=\"feed\",name=\"read\"} 7\n"));
  cr_expect(strstr(
      text, "\nsignalbus_member_seconds_total{member=\"feed\",name=\"slept\"} 1.000000001\n"));
  cr_expect(strstr(
      text,
      "\nsignalbus_member_maximum_seconds{member=\"feed\",name=\"cycle_ns_max\"} 0.000000250\n"));
  cr_expect(strstr(
      text, "\nsignalbus_member_maximum{member=\"feed\",name=\"queue_max\",unit=\"records\"} 9\n"));
  cr_expect(strstr(text, "{member=\"feed\",name=\"odd\",unit=\"a\\\"b\"} 18446744073709551615\n"));
  free(text);
}

/* One series twice makes Prometheus refuse the whole text. */
Test(metrics_text, what_would_be_one_series_is_written_once)
{
  add_item(BUS_OBJECT_COUNTER, "same", "messages")->counter = 1;
  struct busctl_item *twin = add_item(BUS_OBJECT_COUNTER, "same", "messages");
  twin->counter = 2;
  strcpy(twin->peer, "other");
  strcpy(add_item(BUS_OBJECT_RING, "ring", "")->peer, "a");
  strcpy(add_item(BUS_OBJECT_RING, "ring", "")->peer, "b");
  strcpy(add_item(BUS_OBJECT_RING, "ring", "")->peer, "a");
  add_item(BUS_OBJECT_HISTOGRAM, "h", "ns");
  add_item(BUS_OBJECT_HISTOGRAM, "h", "ns");
  char *text = write_text();
  cr_expect_eq(occurrences(text, "name=\"same\""), 1);
  cr_expect(strstr(text, "name=\"same\",unit=\"messages\"} 1\n"));
  cr_expect_eq(occurrences(text, "signalbus_ring_records_total{"), 2);
  cr_expect_eq(occurrences(text, "signalbus_latency_seconds_count{"), 1);
  free(text);
}

static uint64_t bucket(const char *text, const char *le)
{
  char wanted[128];
  snprintf(wanted, sizeof wanted, "le=\"%s\"} ", le);
  const char *at = strstr(text, wanted);
  cr_assert(at, "no bucket %s", le);
  return strtoull(at + strlen(wanted), NULL, 10);
}

Test(metrics_text, buckets_are_cumulative_and_exact)
{
  static const uint64_t values[] = {0, 63, 64, 95, 96, 127, 128, 1000000, UINT64_MAX};
  for (size_t i = 0; i < BUS_COUNT_OF(values); i++)
    bus_histogram_record(&histogram, values[i]);
  add_item(BUS_OBJECT_HISTOGRAM, "h", "ns");
  char *text = write_text();
  cr_expect_eq(bucket(text, "0.000000063"), 2);
  cr_expect_eq(bucket(text, "0.000000095"), 4);
  cr_expect_eq(bucket(text, "0.000000127"), 6);
  cr_expect_eq(bucket(text, "0.000000191"), 7);
  cr_expect_eq(bucket(text, "0.000786431"), 7);
  cr_expect_eq(bucket(text, "0.001048575"), 8);
  cr_expect_eq(bucket(text, "68.719476735"), 8);
  cr_expect_eq(bucket(text, "+Inf"), 9);
  cr_expect(strstr(text, "signalbus_latency_seconds_count{member=\"feed\",name=\"h\"} 9\n"));
  free(text);
}

Test(metrics_text, impossible_counts_do_not_wrap)
{
  for (size_t i = 0; i < BUS_HISTOGRAM_BUCKETS; i++)
    histogram.buckets[i] = UINT64_MAX - 3;
  add_item(BUS_OBJECT_HISTOGRAM, "h", "bytes");
  char *text = write_text();
  uint64_t last = 0;
  for (const char *at = text; (at = strstr(at, "_bucket{")) != NULL; at++) {
    uint64_t count = strtoull(strstr(at, "} ") + 2, NULL, 10);
    cr_expect_geq(count, last);
    last = count;
  }
  cr_expect_eq(last, UINT64_MAX);
  cr_expect(
      strstr(text, "signalbus_size_bytes_count{member=\"feed\",name=\"h\"} 18446744073709551615"));
  free(text);
}
