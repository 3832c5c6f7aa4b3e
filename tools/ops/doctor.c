#include "tools/ops/doctor.h"

#include <ctype.h>
#include <errno.h>
#include <linux/io_uring.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define COMMAND_LINE_BYTES 8192

static int try_io_uring(void)
{
  struct io_uring_params parameters = {0};
  long fd = syscall(SYS_io_uring_setup, 1, &parameters);
  if (fd < 0)
    return errno;
  close((int)fd);
  return 0;
}

static int find_node(const struct ops_doctor *doctor)
{
  struct ops_names names;
  char path[OPS_PATH_BYTES];
  int first = -1, node = -1, cpu = ops_cpu_list_next(&doctor->cpus, 0);
  if (ops_path_join(path, doctor->system->sys_root, "devices/system/node") ||
      ops_directory_list(path, &names))
    return 0;
  for (size_t i = 0; i < names.count && node < 0; i++) {
    struct ops_cpu_list list;
    int number, end = 0;
    if (sscanf(names.names[i], "node%4d%n", &number, &end) != 1 || names.names[i][end] ||
        number < 0)
      continue;
    first = first < 0 ? number : first;
    if (cpu >= 0 &&
        ops_doctor_read_cpus(&list, doctor->system->sys_root, "devices/system/node/node%d/cpulist",
                             number) == BUS_OK &&
        ops_cpu_list_has(&list, cpu))
      node = number;
  }
  ops_names_free(&names);
  return node >= 0 ? node : first >= 0 ? first : 0;
}

int ops_doctor_init(struct ops_doctor *doctor, const struct ops_system *system,
                    const struct ops_doctor_bus *bus, const struct ops_cpu_list *cpus)
{
  char list[OPS_CPU_LIST_BYTES];
  bool named = cpus && ops_cpu_list_count(cpus) > 0;
  *doctor = (struct ops_doctor){.system = system, .bus = *bus};
  doctor->try_io_uring = system->injected ? NULL : try_io_uring;
  int error = ops_doctor_read_cpus(&doctor->online, system->sys_root, "devices/system/cpu/online");
  if (error)
    return error;
  ops_doctor_find_partitions(doctor);
  doctor->cpus = named ? *cpus : ops_cpu_list_and(&doctor->partition, &doctor->online);
  doctor->house = ops_cpu_list_minus(&doctor->online, &doctor->cpus);
  ops_cpu_list_format(&doctor->online, list, sizeof list);
  struct ops_cpu_list absent = ops_cpu_list_minus(&doctor->cpus, &doctor->online);
  if (ops_cpu_list_count(&absent) > 0)
    return bus_error_set(BUS_ERROR_INVALID, "CPU %d is not online: %s are",
                         ops_cpu_list_next(&absent, 0), list);
  if (ops_cpu_list_count(&doctor->house) == 0)
    return bus_error_set(BUS_ERROR_INVALID,
                         "no CPU is left for everything else: %s are all there are; name fewer",
                         list);
  doctor->node = find_node(doctor);
  return BUS_OK;
}

void ops_doctor_run(struct ops_doctor *doctor)
{
  doctor->count = 0;
  ops_doctor_check_kernel(doctor);
  ops_doctor_check_isolation(doctor);
  ops_doctor_check_boot(doctor);
  ops_doctor_check_irqs(doctor);
  ops_doctor_check_settings(doctor);
  ops_doctor_check_power(doctor);
  ops_doctor_check_memory(doctor);
  ops_doctor_check_bus(doctor);
  ops_doctor_check_gpu(doctor);
}

int ops_doctor_count(const struct ops_doctor *doctor, enum ops_doctor_status status)
{
  int count = 0;
  for (int i = 0; i < doctor->count; i++)
    count += doctor->checks[i].status == status;
  return count;
}

const struct ops_doctor_check *ops_doctor_find(const struct ops_doctor *doctor, const char *key)
{
  for (int i = 0; i < doctor->count; i++)
    if (!strcmp(doctor->checks[i].key, key))
      return &doctor->checks[i];
  return NULL;
}

const char *ops_doctor_status_name(enum ops_doctor_status status)
{
  static const char *const names[] = {"pass", "warn", "fail", "skip"};
  return (size_t)status < BUS_COUNT_OF(names) ? names[status] : "?";
}

const char *ops_doctor_remedy_name(enum ops_doctor_remedy kind)
{
  static const char *const names[] = {"none", "command", "shell", "reboot", "boot", "elsewhere"};
  return (size_t)kind < BUS_COUNT_OF(names) ? names[kind] : "?";
}

bool ops_doctor_quote(char *to, size_t size, const char *text)
{
  size_t length = 0;
  static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-";
  if (*text && *text != '-' && !text[strspn(text, plain)])
    return snprintf(to, size, "%s", text) < (int)size;
  for (const char *at = text - 1; at == text - 1 || *at; at++) {
    const char *piece = at == text - 1 ? "'" : *at == '\'' ? "'\\''" : NULL;
    size_t bytes = piece ? strlen(piece) : 1;
    if (length + bytes + 2 > size)
      return false;
    memcpy(to + length, piece ? piece : at, bytes);
    length += bytes;
  }
  memcpy(to + length, "'", 2);
  return true;
}

struct ops_doctor_check *ops_doctor_add(struct ops_doctor *doctor, const char *key, const char *why)
{
  /* The number of checks is fixed by the program. */
  if (doctor->count == OPS_DOCTOR_CHECKS_MAX)
    __builtin_trap();
  struct ops_doctor_check *check = &doctor->checks[doctor->count++];
  *check = (struct ops_doctor_check){.key = key, .why = why};
  return check;
}

void ops_doctor_found(struct ops_doctor_check *check, enum ops_doctor_status status,
                      const char *format, ...)
{
  va_list arguments;
  check->status = status;
  va_start(arguments, format);
  vsnprintf(check->found, sizeof check->found, format, arguments);
  va_end(arguments);
}

void ops_doctor_remedy(struct ops_doctor_check *check, enum ops_doctor_remedy kind,
                       const char *format, ...)
{
  va_list arguments;
  va_start(arguments, format);
  int length = vsnprintf(check->remedy, sizeof check->remedy, format, arguments);
  va_end(arguments);
  check->remedy_kind = kind;
  /* Half a command is worse than none. */
  if (length < 0 || (size_t)length >= sizeof check->remedy) {
    check->remedy_kind = OPS_REMEDY_NONE;
    check->remedy[0] = '\0';
  }
}

void ops_doctor_unreadable(struct ops_doctor_check *check, int error)
{
  if (error == BUS_ERROR_ABSENT)
    ops_doctor_found(check, OPS_DOCTOR_SKIP, "this kernel or machine does not have it");
  else
    ops_doctor_found(check, OPS_DOCTOR_SKIP, "cannot be seen: %s", bus_error_message());
}

bool ops_doctor_needs_cpus(const struct ops_doctor *doctor, struct ops_doctor_check *check)
{
  if (ops_cpu_list_count(&doctor->cpus) > 0)
    return false;
  ops_doctor_found(check, OPS_DOCTOR_SKIP, "no CPU is isolated and none is named with --cpus");
  return true;
}

void ops_doctor_check_mask(struct ops_doctor *doctor, const char *key, const char *why,
                           const char *root, const char *shown, const char *name)
{
  char text[OPS_CPU_LIST_BYTES], mask[OPS_CPU_LIST_BYTES];
  struct ops_cpu_list list;
  struct ops_doctor_check *check = ops_doctor_add(doctor, key, why);
  if (ops_doctor_needs_cpus(doctor, check))
    return;
  int length = ops_doctor_read(text, sizeof text, root, "%s", name);
  int error = length < 0 ? length : ops_cpu_list_parse_mask(&list, text, name);
  if (error) {
    ops_doctor_unreadable(check, error);
    return;
  }
  bool hit = ops_cpu_list_intersects(&list, &doctor->cpus);
  ops_doctor_found(check, hit ? OPS_DOCTOR_WARN : OPS_DOCTOR_PASS, "mask %s", text);
  if (hit)
    ops_doctor_remedy(check, OPS_REMEDY_COMMAND, "echo %s > %s/%s",
                      ops_cpu_list_format_mask(&doctor->house, mask, sizeof mask), shown, name);
}

int ops_doctor_read(char *text, size_t size, const char *root, const char *format, ...)
{
  char path[OPS_PATH_BYTES], name[OPS_PATH_BYTES];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(name, sizeof name, format, arguments);
  va_end(arguments);
  text[0] = '\0';
  int error = ops_path_join(path, root, "%s", name);
  return error ? error : ops_file_read(path, text, size);
}

int ops_doctor_read_cpus(struct ops_cpu_list *list, const char *root, const char *format, ...)
{
  char name[OPS_PATH_BYTES], text[OPS_CPU_LIST_BYTES];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(name, sizeof name, format, arguments);
  va_end(arguments);
  *list = (struct ops_cpu_list){0};
  int length = ops_doctor_read(text, sizeof text, root, "%s", name);
  return length < 0 ? length : ops_cpu_list_parse(list, text, name);
}

bool ops_doctor_runs(const struct ops_doctor *doctor, const char *name)
{
  struct ops_names names;
  bool runs = false;
  if (ops_directory_list(doctor->system->proc_root, &names) != BUS_OK)
    return false;
  for (size_t i = 0; i < names.count && !runs; i++) {
    char comm[64];
    if (isdigit((unsigned char)names.names[i][0]) &&
        ops_doctor_read(comm, sizeof comm, doctor->system->proc_root, "%s/comm", names.names[i]) >
            0)
      runs = strncmp(comm, name, 15) == 0;
  }
  ops_names_free(&names);
  return runs;
}

bool ops_doctor_boot_value(const struct ops_doctor *doctor, const char *key, char *value,
                           size_t size)
{
  char text[COMMAND_LINE_BYTES], *rest = NULL;
  size_t length = strlen(key);
  bool found = false;
  if (ops_doctor_read(text, sizeof text, doctor->system->proc_root, "cmdline") < 0)
    return false;
  for (char *word = strtok_r(text, " \t\n", &rest); word; word = strtok_r(NULL, " \t\n", &rest))
    if (!strncmp(word, key, length) && word[length] == '=') { /* the last one counts */
      snprintf(value, size, "%s", word + length + 1);
      found = true;
    }
  return found;
}
