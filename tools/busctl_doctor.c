#include "tools/busctl_describe.h"
#include "tools/busctl_measure.h"
#include "tools/ops/doctor.h"

#include "shm/member.h"
#include "shm/options.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

static const char help[] =
    "Usage: signal-busctl doctor [--cpus LIST] [--bus DIR] [--json]\n"
    "                            [--measure SEC --cpu N [--ordinary] [--svg FILE]]\n"
    "\n"
    "Checks what of this machine is in the way of a bus, says why it matters, and prints the\n"
    "command that puts it right. Changes nothing; needs no rights, as root it sees more.\n"
    "\n"
    "  --cpus LIST    the CPUs that members shall have for themselves, as 2-5,7; default: the\n"
    "                 isolated ones and those that living members are pinned to\n"
    "  --measure SEC  also measure for so long how much something else has the core: a process\n"
    "                 that spins there notes every gap\n"
    "  --cpu N        the core that is measured; then also the default of --cpus\n"
    "  --ordinary     measure without real-time priority, as members run\n"
    "  --svg FILE     a picture of the gaps\n"
    "  --bus DIR      the bus; default $SIGNAL_BUS, else /dev/shm/signals\n"
    "  --json         one JSON object\n"
    "  --help         this text\n"
    "\n"
    "Exit status: 0 nothing to do, 1 failed, or a check fails, 2 usage, 3 warnings.\n";

enum {
  OPTION_CPUS = BUSCTL_OPTION_OWN,
  OPTION_JSON,
  OPTION_MEASURE,
  OPTION_CPU,
  OPTION_ORDINARY,
  OPTION_SVG
};

struct doctor_options {
  const char *directory;
  const char *svg;
  struct ops_cpu_list cpus;
  int64_t seconds; /* 0: not measured */
  int64_t cpu;     /* -1: not given */
  bool ordinary;
  bool json;
};

/* What the bus lies on and what its members got; a bus that is not there is no error. */
static void look_at_bus(const char *directory, struct ops_doctor_bus *bus,
                        struct ops_cpu_list *cores)
{
  struct busctl_scan scan;
  struct stat status;
  struct statfs fs;
  *bus = (struct ops_doctor_bus){0};
  snprintf(bus->directory, sizeof bus->directory, "%s", directory);
  if (stat(directory, &status) != 0 || !S_ISDIR(status.st_mode) || statfs(directory, &fs) != 0)
    return;
  bus->exists = true;
  bus->owner = status.st_uid;
  bus->file_system = (int64_t)fs.f_type;
  if (busctl_scan_open(&scan, directory) != BUS_OK)
    return;
  bus->files = (uint32_t)scan.count;
  for (size_t i = 0; i < scan.count; i++) {
    const struct busctl_file *file = &scan.files[i];
    if (!file->neighbour)
      continue;
    bus->members++;
    bus->members_small += file->live.huge_bytes < file->file_bytes;
    bus->file_bytes += file->file_bytes;
    bus->huge_bytes +=
        file->live.huge_bytes < file->file_bytes ? file->live.huge_bytes : file->file_bytes;
    if (busctl_file_lives(file))
      ops_cpu_list_add(cores, file->live.core);
  }
  busctl_scan_close(&scan);
}

static json_t *describe_check(const struct ops_doctor_check *check)
{
  json_t *object = json_object();
  busctl_json_string(object, "key", check->key, SIZE_MAX);
  busctl_json_string(object, "status", ops_doctor_status_name(check->status), SIZE_MAX);
  busctl_json_string(object, "found", check->found, sizeof check->found);
  busctl_json_string(object, "why", check->why, SIZE_MAX);
  busctl_json_string(object, "remedy_kind", ops_doctor_remedy_name(check->remedy_kind), SIZE_MAX);
  busctl_json_string(object, "remedy", check->remedy, sizeof check->remedy);
  return object;
}

static json_t *describe(const struct ops_doctor *doctor)
{
  char list[OPS_CPU_LIST_BYTES];
  json_t *object = json_object(), *checks = json_array(), *counts = json_object();
  for (int i = 0; i < doctor->count; i++)
    busctl_json_append(checks, describe_check(&doctor->checks[i]));
  for (int status = OPS_DOCTOR_PASS; status <= OPS_DOCTOR_SKIP; status++)
    busctl_json_signed(counts, ops_doctor_status_name((enum ops_doctor_status)status),
                       ops_doctor_count(doctor, (enum ops_doctor_status)status));
  busctl_json_string(object, "bus", doctor->bus.directory, sizeof doctor->bus.directory);
  busctl_json_string(object, "cpus", ops_cpu_list_format(&doctor->cpus, list, sizeof list),
                     sizeof list);
  busctl_json_set(object, "counts", counts);
  busctl_json_set(object, "checks", checks);
  return object;
}

static const char *remedy_label(const char *kind)
{
  static const char *const labels[][2] = {{"command", "fix"},
                                          {"shell", "fix, in the shell that starts the members"},
                                          {"reboot", "fix, then reboot"},
                                          {"boot", "on the kernel command line"},
                                          {"elsewhere", "elsewhere"}};
  for (size_t i = 0; i < BUS_COUNT_OF(labels); i++)
    if (!strcmp(labels[i][0], kind))
      return labels[i][1];
  return NULL;
}

static void print_checks(const json_t *object)
{
  size_t index;
  json_t *check;
  const json_t *counts = json_object_get(object, "counts");
  json_array_foreach(json_object_get(object, "checks"), index, check)
  {
    const char *status = busctl_json_text(check, "status");
    const char *label = remedy_label(busctl_json_text(check, "remedy_kind"));
    bool loud = !strcmp(status, "warn") || !strcmp(status, "fail");
    printf("%s  %-16s  %s\n", loud ? (*status == 'w' ? "WARN" : "FAIL") : status,
           busctl_json_text(check, "key"), busctl_json_text(check, "found"));
    if (loud)
      printf("      why: %s\n", busctl_json_text(check, "why"));
    if (label)
      printf("      %s: %s\n", label, busctl_json_text(check, "remedy"));
  }
  printf("CPUs of members: %s; %lld pass, %lld warn, %lld fail, %lld skipped\n",
         *busctl_json_text(object, "cpus") ? busctl_json_text(object, "cpus") : "none named",
         (long long)busctl_json_integer(counts, "pass"),
         (long long)busctl_json_integer(counts, "warn"),
         (long long)busctl_json_integer(counts, "fail"),
         (long long)busctl_json_integer(counts, "skip"));
}

/* The CPUs that were named; else the isolated ones, the members' and the one that is measured. */
static int start(struct ops_doctor *doctor, const struct ops_system *system,
                 const struct doctor_options *options)
{
  struct ops_doctor_bus bus;
  struct ops_cpu_list cores = {0};
  bool named = ops_cpu_list_count(&options->cpus) > 0;
  look_at_bus(options->directory, &bus, &cores);
  int error = ops_doctor_init(doctor, system, &bus, named ? &options->cpus : NULL);
  if (error == BUS_ERROR_INVALID && named)
    return busctl_usage_error("doctor", "--cpus: %s", bus_error_message());
  if (error)
    return busctl_fail("doctor");
  if (options->cpu >= 0 && !ops_cpu_list_has(&doctor->online, (int)options->cpu))
    return busctl_usage_error("doctor", "--cpu %d is not online", (int)options->cpu);
  if (named)
    return BUSCTL_OK;
  ops_cpu_list_add(&cores, options->cpu > 0 ? (int)options->cpu : -1); /* CPU 0 keeps the house */
  struct ops_cpu_list all = ops_cpu_list_or(&doctor->cpus, &cores);
  all = ops_cpu_list_and(&all, &doctor->online);
  /* Members that sit on every core leave nothing to advise. */
  if (!ops_cpu_list_equal(&all, &doctor->online) &&
      ops_doctor_init(doctor, system, &bus, &all) != BUS_OK)
    return busctl_fail("doctor");
  return BUSCTL_OK;
}

static int show(const struct doctor_options *options, const json_t *object, const json_t *measure)
{
  if (options->svg && busctl_measure_write_svg(measure, options->svg) != BUS_OK)
    return busctl_fail("doctor");
  if (options->json)
    return busctl_json_print(object);
  print_checks(object);
  if (measure)
    busctl_measure_print(measure);
  return BUSCTL_OK;
}

static int examine(const struct doctor_options *options)
{
  static struct ops_doctor doctor;
  struct ops_system system;
  json_t *measure = NULL;
  if (ops_system_init(&system, NULL) != BUS_OK)
    return busctl_fail("doctor");
  int status = start(&doctor, &system, options);
  if (status != BUSCTL_OK)
    return status;
  ops_doctor_run(&doctor);
  if (options->seconds &&
      !(measure = busctl_measure(&system, (int)options->cpu, options->seconds, options->ordinary)))
    return busctl_fail("doctor");
  json_t *object = describe(&doctor);
  if (measure)
    busctl_json_set(object, "measure", measure);
  status = show(options, object, measure);
  json_decref(object);
  if (status == BUSCTL_OK && ops_doctor_count(&doctor, OPS_DOCTOR_FAIL))
    status = BUSCTL_FAILED;
  else if (status == BUSCTL_OK && ops_doctor_count(&doctor, OPS_DOCTOR_WARN))
    status = BUSCTL_PARTLY;
  return status;
}

static int take_option(struct doctor_options *options, int option, const char *value)
{
  int error = BUS_OK;
  switch (option) {
  case OPTION_CPUS:
    if (ops_cpu_list_parse(&options->cpus, value, "--cpus") != BUS_OK ||
        ops_cpu_list_count(&options->cpus) == 0)
      return busctl_usage_error("doctor", "--cpus %s: give CPUs, as 2-5,7", value);
    break;
  case OPTION_MEASURE:
    error = bus_parse_integer(value, 1, BUSCTL_MEASURE_SECONDS_MAX, "--measure", &options->seconds);
    break;
  case OPTION_CPU:
    error = bus_parse_integer(value, 0, OPS_CPUS_MAX - 1, "--cpu", &options->cpu);
    break;
  case OPTION_ORDINARY:
    options->ordinary = true;
    break;
  case OPTION_SVG:
    options->svg = value;
    break;
  case OPTION_JSON:
    options->json = true;
    break;
  }
  return error ? busctl_usage_error("doctor", "%s", bus_error_message()) : BUSCTL_OK;
}

int busctl_doctor(int argc, char **argv)
{
  static const struct option known[] = {{"cpus", required_argument, NULL, OPTION_CPUS},
                                        {"measure", required_argument, NULL, OPTION_MEASURE},
                                        {"cpu", required_argument, NULL, OPTION_CPU},
                                        {"ordinary", no_argument, NULL, OPTION_ORDINARY},
                                        {"svg", required_argument, NULL, OPTION_SVG},
                                        {"json", no_argument, NULL, OPTION_JSON},
                                        BUSCTL_COMMON_OPTIONS};
  struct doctor_options options = {.cpu = -1};
  struct busctl_line line = {
      .argc = argc, .argv = argv, .verb = "doctor", .help = help, .options = known};
  for (int option; (option = busctl_line_next(&line)) != 0;) {
    int status = take_option(&options, option, optarg);
    if (status != BUSCTL_OK)
      return status;
  }
  if (line.ended)
    return line.status;
  options.directory = line.directory ? line.directory : bus_directory_default();
  if ((options.seconds > 0) != (options.cpu >= 0))
    return busctl_usage_error("doctor", "--measure and --cpu go together");
  if ((options.svg || options.ordinary) && !options.seconds)
    return busctl_usage_error("doctor", "--svg and --ordinary need --measure");
  return examine(&options);
}
