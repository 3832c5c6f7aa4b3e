#include "tools/busctl_describe.h"
#include "tools/ops/doctor.h"

#include "shm/member.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

static const char help[] =
    "Usage: signal-busctl doctor [--cpus LIST] [--bus DIR] [--json]\n"
    "\n"
    "Checks what of this machine is in the way of a bus, says why it matters, and prints the\n"
    "command that puts it right. Changes nothing; needs no rights, as root it sees more.\n"
    "\n"
    "  --cpus LIST    the CPUs that members shall have for themselves, as 2-5,7; default: the\n"
    "                 isolated ones and those that living members are pinned to\n"
    "  --bus DIR      the bus; default $SIGNAL_BUS, else /dev/shm/signals\n"
    "  --json         one JSON object\n"
    "  --help         this text\n"
    "\n"
    "Exit status: 0 nothing to do, 1 failed, or a check fails, 2 usage, 3 warnings.\n";

enum { OPTION_CPUS = BUSCTL_OPTION_OWN, OPTION_JSON };

struct doctor_options {
  const char *directory;
  struct ops_cpu_list cpus;
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

static int examine(const struct doctor_options *options)
{
  static struct ops_doctor doctor;
  struct ops_system system;
  struct ops_doctor_bus bus;
  struct ops_cpu_list cores = {0};
  bool named = ops_cpu_list_count(&options->cpus) > 0;
  look_at_bus(options->directory, &bus, &cores);
  int error = ops_system_init(&system, NULL);
  if (!error)
    error = ops_doctor_init(&doctor, &system, &bus, named ? &options->cpus : NULL);
  if (error == BUS_ERROR_INVALID && named)
    return busctl_usage_error("doctor", "--cpus: %s", bus_error_message());
  if (error)
    return busctl_fail("doctor");
  if (!named) { /* members that sit on every core leave nothing to advise */
    struct ops_cpu_list both = ops_cpu_list_or(&doctor.cpus, &cores);
    both = ops_cpu_list_and(&both, &doctor.online);
    if (!ops_cpu_list_equal(&both, &doctor.online) &&
        ops_doctor_init(&doctor, &system, &bus, &both) != BUS_OK)
      return busctl_fail("doctor");
  }
  ops_doctor_run(&doctor);
  json_t *object = describe(&doctor);
  int status = BUSCTL_OK;
  if (options->json)
    status = busctl_json_print(object);
  else
    print_checks(object);
  json_decref(object);
  if (status == BUSCTL_OK && ops_doctor_count(&doctor, OPS_DOCTOR_FAIL))
    status = BUSCTL_FAILED;
  else if (status == BUSCTL_OK && ops_doctor_count(&doctor, OPS_DOCTOR_WARN))
    status = BUSCTL_PARTLY;
  return status;
}

int busctl_doctor(int argc, char **argv)
{
  static const struct option known[] = {{"cpus", required_argument, NULL, OPTION_CPUS},
                                        {"json", no_argument, NULL, OPTION_JSON},
                                        BUSCTL_COMMON_OPTIONS};
  struct doctor_options options = {.directory = bus_directory_default()};
  int option;
  while ((option = getopt_long(argc, argv, "b:h", known, NULL)) != -1) {
    switch (option) {
    case OPTION_CPUS:
      if (ops_cpu_list_parse(&options.cpus, optarg, "--cpus") != BUS_OK ||
          ops_cpu_list_count(&options.cpus) == 0)
        return busctl_usage_error("doctor", "--cpus %s: give CPUs, as 2-5,7", optarg);
      break;
    case OPTION_JSON:
      options.json = true;
      break;
    case BUSCTL_OPTION_BUS:
      options.directory = optarg;
      break;
    case BUSCTL_OPTION_HELP:
      fputs(help, stdout);
      return BUSCTL_OK;
    default:
      return BUSCTL_USAGE;
    }
  }
  if (optind < argc)
    return busctl_usage_error("doctor", "'%s' is one argument too many", argv[optind]);
  return examine(&options);
}
