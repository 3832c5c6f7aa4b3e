/* The tables of top: columns that fit, rows in order, bars. */
#include "tools/top_view.h"

#include <criterion/criterion.h>
#include <string.h>

static struct busctl_member members[2] = {{.name = "feed",
                                           .kind = "feed",
                                           .attached = true,
                                           .status = BUS_NEIGHBOUR_ALIVE,
                                           .state = BUS_STATE_RUN,
                                           .pid = 123,
                                           .epoch = 4,
                                           .heartbeat_age_ns = 1500000,
                                           .core = 2,
                                           .numa_node = -1,
                                           .backing = BUS_BACKING_HUGETLB},
                                          {.name = "b\u00e4r.txt", .error = BUS_ERROR_CORRUPT}};
static struct bus_histogram histogram;
static struct busctl_item items[] = {
    {.type = BUS_OBJECT_RING,
     .name = "slow",
     .ring = {.committed = 10, .depth = 100, .lag = 1, .lag_known = true}},
    {.type = BUS_OBJECT_RING,
     .name = "fast",
     .ring = {.committed = 500, .depth = 100, .lag = 95, .lag_known = true, .dropped = 7}},
    {.type = BUS_OBJECT_RING, .name = "unread", .ring = {.committed = 20, .depth = 100}},
    {.type = BUS_OBJECT_HISTOGRAM, .name = "wait_ns", .unit = "ns", .histogram = &histogram},
    {.type = BUS_OBJECT_COUNTER, .name = "messages", .unit = "messages", .counter = 77},
    {.type = BUS_OBJECT_COUNTER, .name = "still", .unit = "messages", .counter = 5},
};
static struct busctl_change changes[] = {
    {.item = &items[0], .member = members, .ring = {.records_per_s = 1}},
    {.item = &items[1], .member = members, .ring = {.records_per_s = 200, .dropped_per_s = 3}},
    {.item = &items[2], .member = members, .ring = {.records_per_s = 10}},
    {.item = &items[3], .member = members, .interval = &histogram},
    {.item = &items[4], .member = members, .changed = true, .counter_per_s = 11},
    {.item = &items[5], .member = members},
};
static const struct busctl_sample sample = {
    .directory = "/bus", .members = members, .member_count = 2, .items = items, .item_count = 6};
static const struct busctl_view view = {
    .now = &sample, .before = &sample, .interval_ns = 1000, .changes = changes};

static struct top_page page;

static void draw(int width, struct top_options options)
{
  top_page_clear(&page, width);
  top_view_draw(&page, &view, &options);
  cr_assert_not(page.failed);
}

/* The line that begins so, or -1. */
static int line_of(const char *begin)
{
  for (size_t i = 0; i < page.count; i++)
    if (!strncmp(page.lines[i].text, begin, strlen(begin)))
      return (int)i;
  return -1;
}

static bool shows(const char *begin, const char *text)
{
  int line = line_of(begin);
  return line >= 0 && strstr(page.lines[line].text, text);
}

Test(top_view, shows_all_where_there_is_room)
{
  draw(0, (struct top_options){.span = TOP_BOTH});
  cr_expect(shows("MEMBER", "KIND") && shows("MEMBER", "MEMORY") && shows("feed ", "1.50ms"));
  cr_expect(shows("feed ", "hugetlbfs") && shows("b\u00e4r.txt", "not a member: corrupt"));
  cr_expect(shows("feed/slow", "1.00") && shows("feed/unread", "no reader"));
  cr_expect(shows("feed/messages", "77") && shows("feed/messages", "11"));
  cr_expect_eq(line_of("feed/still"), -1);
  cr_expect(shows("feed/wait_ns", "all"));
  cr_expect_eq(line_of("READER"), -1);
}

Test(top_view, no_table_is_wider_than_the_terminal)
{
  for (int width = 50; width < 130; width++) {
    draw(width, (struct top_options){0});
    for (size_t i = 0; i < page.count; i++)
      if (strncmp(page.lines[i].text, "b\u00e4r", 4)) {
        /* Only the text of a last column may stand out: it is cut by the screen. */
        const char *text = page.lines[i].text;
        cr_expect(page.lines[i].columns <= (uint32_t)width || strstr(text, "pages"), "%d: %s",
                  width, text);
      }
  }
  draw(40, (struct top_options){0});
  cr_expect(shows("MEMBER", "STATUS") && !shows("MEMBER", "PID"));
  cr_expect(shows("RING", "records/s") && shows("RING", "lag") && !shows("RING", "depth"));
  cr_expect(shows("LATENCY", "p50") && shows("LATENCY", "p99"));
  draw(1, (struct top_options){0});
  cr_expect(line_of("MEMBER") == 0);
}

Test(top_view, rows_in_each_order)
{
  static const char *const expected[TOP_ORDERS][3] = {{"feed/slow", "feed/fast", "feed/unread"},
                                                      {"feed/fast", "feed/unread", "feed/slow"},
                                                      {"feed/fast", "feed/slow", "feed/unread"}};
  for (enum top_order order = 0; order < TOP_ORDERS; order++) {
    draw(100, (struct top_options){.order = order});
    int ring = line_of("RING");
    for (int i = 0; i < 3; i++)
      cr_expect_eq(line_of(expected[order][i]), ring + 1 + i, "%s: %s", top_order_name(order),
                   expected[order][i]);
  }
}

Test(top_view, totals_in_place_of_rates)
{
  draw(120, (struct top_options){.span = TOP_INTERVAL});
  cr_expect(shows("RING", "records/s") && shows("feed/fast", " 200 "));
  draw(120, (struct top_options){.span = TOP_TOTAL});
  cr_expect(shows("RING", " records ") && shows("feed/fast", " 500 "));
  cr_expect(shows("feed/wait_ns", "all"));
}

Test(top_view, a_drop_and_a_full_ring_are_alarms)
{
  draw(120, (struct top_options){0});
  const struct top_line *line = &page.lines[line_of("feed/fast")];
  int alarms = 0;
  for (uint32_t i = 0; i < line->span_count; i++)
    alarms += line->spans[i].style == TOP_BAD;
  cr_expect_eq(alarms, 3); /* the bar, the percent, the drops */
}

Test(top_view, bars)
{
  char text[4 * 32 + 1];
  cr_expect_str_eq(top_bar(text, 0, 4, false), "....");
  cr_expect_str_eq(top_bar(text, 0.0001, 4, false), "-...");
  cr_expect_str_eq(top_bar(text, 0.5, 4, false), "##..");
  cr_expect_str_eq(top_bar(text, 7, 4, false), "####");
  cr_expect_str_eq(top_bar(text, -1, 4, false), "....");
  cr_expect_str_eq(top_bar(text, 0.0 / 0.0, 4, false), "....");
  cr_expect_str_eq(top_bar(text, 0.375, 2, true), "\u258a\u00b7");
  cr_expect_eq(strlen(top_bar(text, 1, 32, true)), 96);
}

Test(top_view, durations)
{
  char text[32];
  static const struct {
    uint64_t ns;
    const char *text;
  } cases[] = {{0, "0ns"},          {999, "999ns"},        {1000, "1.00us"},
               {12345, "12.3us"},   {999499, "999us"},     {999500, "1.00ms"},
               {99950000, "100ms"}, {1500000000, "1.50s"}, {UINT64_MAX, "18446744074s"}};
  for (size_t i = 0; i < BUS_COUNT_OF(cases); i++)
    cr_expect_str_eq(top_duration(text, sizeof text, cases[i].ns), cases[i].text);
}

Test(top_view, text_is_cut_between_characters)
{
  cr_expect_eq(top_text_bytes("b\u00e4r", 2), 3);
  cr_expect_eq(top_text_bytes("b\u00e4r", 9), 4);
  cr_expect_eq(top_text_bytes("\u00e4", 0), 0);
  top_page_clear(&page, 10);
  top_page_paragraph(&page, "one two three incomprehensible x");
  cr_assert_eq(page.count, 4);
  cr_expect_str_eq(page.lines[0].text, "one two");
  cr_expect_str_eq(page.lines[2].text, "incomprehe");
  cr_expect_str_eq(page.lines[3].text, "nsible x");
}
