#include "tools/bench/bench_machine.h"

#include "shm/loop.h"
#include "tools/bench/bench_process.h"

#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#if defined(__clang__)
#define COMPILER "clang " __clang_version__
#else
#define COMPILER "gcc " __VERSION__
#endif

/* The value of the first "key : value" line, "" when there is none. */
static void read_cpuinfo(const char *key, char *value, size_t size)
{
  char line[4096];
  FILE *file = fopen("/proc/cpuinfo", "re");
  value[0] = '\0';
  while (file && fgets(line, sizeof line, file)) {
    const char *colon = strchr(line, ':');
    if (strncmp(line, key, strlen(key)) != 0 || !colon)
      continue;
    size_t length = strcspn(colon + 1, "\n");
    if (length > 0)
      snprintf(value, size, "%.*s", (int)(length - 1), colon + 2);
    break;
  }
  if (file)
    fclose(file);
}

static void read_line(const char *path, char *text, size_t size)
{
  FILE *file = fopen(path, "re");
  if (!file || !fgets(text, (int)size, file))
    snprintf(text, size, "unknown");
  if (file)
    fclose(file);
  text[strcspn(text, "\n")] = '\0';
}

static void describe_cpu(struct bench_report *report)
{
  char model[128], family[16], number[16], flags[4096];
  struct utsname system;
  uname(&system);
  read_cpuinfo("model name", model, sizeof model);
  read_cpuinfo("cpu family", family, sizeof family);
  read_cpuinfo("model\t", number, sizeof number);
  read_cpuinfo("flags", flags, sizeof flags);
  bench_report_note(report, "machine: %s (%s, family %s model %s), %ld cores%s",
                    model[0] ? model : "unnamed CPU", system.machine, family[0] ? family : "?",
                    number[0] ? number : "?", sysconf(_SC_NPROCESSORS_ONLN),
                    strstr(flags, "hypervisor") ? ", virtual" : "");
  bench_report_note(report, "kernel: %s %.64s", system.sysname, system.release);
}

static double clock_reading_ns(void)
{
  const uint32_t readings = 10000;
  uint64_t sum = 0, start_ns = bench_now_ns();
  for (uint32_t i = 0; i < readings; i++)
    sum += bench_now_ns();
  uint64_t end_ns = bench_now_ns();
  __asm__ volatile("" ::"r"(sum));
  return (double)(end_ns - start_ns) / readings;
}

void bench_machine_describe(struct bench_report *report)
{
  char source[64];
  read_line("/sys/devices/system/clocksource/clocksource0/current_clocksource", source,
            sizeof source);
  describe_cpu(report);
  bench_report_note(report, "clock: %s, %.1f ns a reading; the kernel's is %s",
                    bench_clock.source == BUS_CLOCK_TSC ? "time-stamp counter" : "CLOCK_MONOTONIC",
                    clock_reading_ns(), source);
  bench_report_note(report, "compiler: %s", COMPILER);
}

static bool are_siblings(const int cores[2])
{
  char path[96], list[64];
  snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list",
           cores[0]);
  read_line(path, list, sizeof list);
  for (char *word = strtok(list, ","); word; word = strtok(NULL, ",")) {
    int first = -1, last = -1; /* "3" or "2-5" */
    int found = sscanf(word, "%d-%d", &first, &last);
    if ((found == 1 && cores[1] == first) || (found == 2 && cores[1] >= first && cores[1] <= last))
      return true;
  }
  return false;
}

int bench_machine_prepare(struct bench_report *report, struct bench_options *options, int needed)
{
  int error = bench_choose_cores(options->cores, needed);
  if (!error)
    error = bench_wait_turn();
  if (!error)
    error = bus_pin_thread(options->cores[0]);
  if (error)
    return error;
  const char *scheduling = "ordinary scheduling, as asked";
  if (options->fifo)
    scheduling = bench_go_fifo() == BUS_OK ? "SCHED_FIFO 1"
                                           : "ordinary scheduling: SCHED_FIFO is not allowed here";
  if (needed == 1)
    bench_report_note(report, "cores: %d; %s", options->cores[0], scheduling);
  else
    bench_report_note(report, "cores: %d and %d%s; %s", options->cores[0], options->cores[1],
                      are_siblings(options->cores) ? " (two threads of one core)" : "", scheduling);
  return BUS_OK;
}
