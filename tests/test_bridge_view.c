/* Servers and classes of bridges, as top and Prometheus show them. */
#include "tools/bridge_view.h"
#include "tools/metrics_bridge.h"
#include "tools/top_bridge.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static struct busctl_member members[] = {{.name = "bridge", .kind = "bridge", .attached = true},
                                         {.name = "feed", .kind = "feed", .attached = true}};
static struct bus_histogram histogram;
static struct busctl_item items[64];
static struct busctl_change changes[64];
static struct busctl_sample sample = {.members = members, .member_count = 2, .items = items};
static struct busctl_view view = {.now = &sample, .before = &sample, .changes = changes};
static struct top_page page;

static void add(uint32_t member, uint32_t type, const char *name, uint64_t value)
{
  struct busctl_change *change = &changes[sample.item_count];
  struct busctl_item *item = &items[sample.item_count++];
  item->type = type;
  item->member = member;
  strcpy(item->name, name);
  *change = (struct busctl_change){.item = item, .member = &members[member]};
  if (type == BUS_OBJECT_HISTOGRAM) {
    item->histogram = &histogram;
    change->interval = &histogram;
  } else {
    item->counter = value;
    change->counter_per_s = (double)value / 10;
  }
}

static void add_server(uint32_t member, const char *name, uint64_t breaker)
{
  static const char *const counters[] = {"succeeded", "failed", "timed_out",
                                         "abandoned", "tokens", "in_flight"};
  char text[64];
  for (size_t i = 0; i < BUS_COUNT_OF(counters); i++) {
    snprintf(text, sizeof text, "%s.%s", name, counters[i]);
    add(member, BUS_OBJECT_COUNTER, text, 10 * (i + 1));
  }
  snprintf(text, sizeof text, "%s.first_token_ns", name);
  add(member, BUS_OBJECT_HISTOGRAM, text, 0);
  snprintf(text, sizeof text, "%s.breaker", name);
  add(member, BUS_OBJECT_COUNTER, text, breaker);
}

static void add_class(void)
{
  add(0, BUS_OBJECT_COUNTER, "class.fast.accepted", 900);
  add(0, BUS_OBJECT_COUNTER, "class.fast.rejected", 3);
  add(0, BUS_OBJECT_COUNTER, "class.fast.waiting", 4);
  add(0, BUS_OBJECT_HISTOGRAM, "class.fast.queue_ns", 0);
  add(0, BUS_OBJECT_HISTOGRAM, "class.fast.total_ns", 0);
}

static const char *line_of(const char *begin)
{
  for (size_t i = 0; i < page.count; i++)
    if (!strncmp(page.lines[i].text, begin, strlen(begin)))
      return page.lines[i].text;
  return "";
}

Test(bridge_view, finds_servers_and_classes_by_name)
{
  add_server(0, "mac", 1);
  add(0, BUS_OBJECT_COUNTER, "in_flight", 5);         /* the bridge's own */
  add(0, BUS_OBJECT_COUNTER, "half.breaker", 0);      /* lacks the rest */
  add(0, BUS_OBJECT_COUNTER, ".breaker", 0);          /* has no name */
  add(0, BUS_OBJECT_COUNTER, "class.odd.breaker", 0); /* is none */
  add(0, BUS_OBJECT_COUNTER, "class.waiting", 0);     /* has no name */
  add_server(0, "vllm", 0);
  add_server(1, "feed_is_no_bridge", 0);
  add_class();
  struct bridge_server server;
  size_t at = 0;
  cr_assert(bridge_next_server(&sample, &at, &server));
  cr_assert_str_eq(server.name, "mac");
  cr_assert_eq(server.breaker->counter, 1);
  cr_assert_eq(server.tokens->counter, 50);
  cr_assert(bridge_next_server(&sample, &at, &server));
  cr_assert_str_eq(server.name, "vllm");
  cr_assert_not(bridge_next_server(&sample, &at, &server));
  struct bridge_class class;
  at = 0;
  cr_assert(bridge_next_class(&sample, &at, &class));
  cr_assert_str_eq(class.name, "fast");
  cr_assert_eq(class.waiting->counter, 4);
  cr_assert_not(bridge_next_class(&sample, &at, &class));
  cr_assert_str_eq(bridge_breaker_name(2), "canary");
  cr_assert_str_eq(bridge_breaker_name(3), "?");
}

Test(bridge_view, top_shows_them)
{
  add_server(0, "mac", 1);
  add_server(0, "vllm", 0);
  add_class();
  bus_histogram_record(&histogram, 250000000);
  struct top_options options = {.span = TOP_INTERVAL};
  top_page_clear(&page, 0);
  top_bridge_draw(&page, &view, &options, 20);
  cr_assert_not_null(strstr(line_of("SERVER"), "tokens/s"));
  cr_assert_not_null(strstr(line_of("bridge/mac"), "open"));
  cr_assert_not_null(strstr(line_of("bridge/mac"), "250ms"), "%s", line_of("bridge/mac"));
  cr_assert_not_null(strstr(line_of("bridge/mac"), "5.00"), "%s", line_of("bridge/mac"));
  cr_assert_not_null(strstr(line_of("bridge/vllm"), "closed"));
  cr_assert_not_null(strstr(line_of("CLASS"), "accepted/s"));
  cr_assert_not_null(strstr(line_of("bridge/fast"), " 90.00"), "%s", line_of("bridge/fast"));
  options.span = TOP_TOTAL;
  top_page_clear(&page, 0);
  top_bridge_draw(&page, &view, &options, 20);
  cr_assert_not_null(strstr(line_of("bridge/fast"), " 900"));
  for (int width = 40; width < 130; width++) {
    top_page_clear(&page, width);
    top_bridge_draw(&page, &view, &options, 12);
    for (size_t i = 0; i < page.count; i++)
      cr_expect(page.lines[i].columns <= (uint32_t)width, "%d: %s", width, page.lines[i].text);
  }
}

Test(bridge_view, a_bus_without_a_bridge_shows_nothing)
{
  add_server(1, "feed_is_no_bridge", 0);
  struct top_options options = {.span = TOP_INTERVAL};
  top_page_clear(&page, 0);
  top_bridge_draw(&page, &view, &options, 20);
  cr_assert_eq(page.count, 0);
  static char *text;
  static size_t bytes;
  FILE *file = open_memstream(&text, &bytes);
  metrics_bridge_write(file, &sample);
  fclose(file);
  cr_assert_str_eq(text, "");
  free(text);
}

Test(bridge_view, prometheus_hears_of_them)
{
  add_server(0, "mac", 1);
  add_class();
  static char *text; /* lasts longer than the call, as what it points to does */
  static size_t bytes;
  FILE *file = open_memstream(&text, &bytes);
  metrics_bridge_write(file, &sample);
  fclose(file);
  static const char *const lines[] = {
      "# TYPE signalbus_llm_server_breaker gauge\n",
      "\nsignalbus_llm_server_breaker{member=\"bridge\",server=\"mac\"} 1\n",
      "\nsignalbus_llm_server_in_flight_requests{member=\"bridge\",server=\"mac\"} 60\n",
      "\nsignalbus_llm_server_tokens_total{member=\"bridge\",server=\"mac\"} 50\n",
      "\nsignalbus_llm_server_attempts_total{member=\"bridge\",server=\"mac\",outcome=\"failed\"} "
      "20\n",
      "\nsignalbus_llm_class_waiting_requests{member=\"bridge\",class=\"fast\"} 4\n",
      "\nsignalbus_llm_class_requests_total{member=\"bridge\",class=\"fast\",outcome=\"rejected\"} "
      "3\n"};
  for (size_t i = 0; i < BUS_COUNT_OF(lines); i++)
    cr_expect(strstr(text, lines[i]), "%s not in %s", lines[i], text);
  free(text);
}

Test(bridge_view, levels_have_no_rate)
{
  add(0, BUS_OBJECT_COUNTER, "mac.in_flight", 1);
  add(0, BUS_OBJECT_COUNTER, "in_flight", 1);
  add(0, BUS_OBJECT_COUNTER, "not_in_flight", 1);
  add(0, BUS_OBJECT_COUNTER, "cycle_ns_max", 1);
  cr_expect(busctl_item_is_level(&items[0]) && !busctl_item_has_rate(&items[0]));
  cr_expect(busctl_item_is_level(&items[1]) && !busctl_item_has_rate(&items[1]));
  cr_expect(!busctl_item_is_level(&items[2]) && busctl_item_has_rate(&items[2]));
  cr_expect(!busctl_item_is_level(&items[3]) && !busctl_item_has_rate(&items[3]));
}
