#include "tools/ops/isolate_report.h"

#include <jansson.h>
#include <string.h>

/* What the files hold goes to terminals and into JSON. */
static const char *printable(char *to, size_t size, const char *from)
{
  size_t length = 0;
  for (; from[length] && length + 1 < size; length++)
    to[length] = (char)(from[length] >= 0x20 && from[length] <= 0x7e ? from[length] : '?');
  to[length] = '\0';
  return to;
}

static void print_change(const struct ops_change *change, bool release, FILE *out)
{
  char from[OPS_VALUE_BYTES], to[OPS_VALUE_BYTES], path[OPS_PATH_BYTES];
  const char *before = release ? change->wanted : change->found;
  const char *after = release ? change->found : change->wanted;
  printable(from, sizeof from, before);
  printable(to, sizeof to, after);
  printable(path, sizeof path, change->path);
  fprintf(out, "  %-10s %-8s %s%s%s%s: '%s' -> '%s'\n", change->stage,
          ops_change_state_name(change->state), path, change->label[0] ? " (" : "", change->label,
          change->label[0] ? ")" : "", from, to);
  if (change->state == OPS_CHANGE_PENDING)
    fprintf(out, "             %s\n", change->remark);
}

static void print_head(const struct ops_isolation *run, const char *verb, FILE *out)
{
  const char *planned = run->options.dry_run ? " (dry run: nothing is changed)" : "";
  if (!strcmp(verb, "release"))
    fprintf(out, "release '%s': CPUs %s%s\n", run->options.name,
            run->cpus_text[0] ? run->cpus_text : "none", planned);
  else
    fprintf(out, "isolate '%s': CPUs %s by %s; everybody else on %s%s\n", run->options.name,
            run->cpus_text, ops_isolate_mode_name(run->mode), run->house_text, planned);
}

void ops_report_text(const struct ops_isolation *run, const char *verb, int code, FILE *out)
{
  char text[1024];
  bool release = !strcmp(verb, "release");
  if (release || run->house_text[0])
    print_head(run, verb, out);
  for (size_t i = 0; i < run->count; i++)
    print_change(&run->changes[i], release, out);
  if (run->count == 0 && code == OPS_EXIT_OK)
    fputs(release ? "  nothing to restore\n" : "  nothing to change\n", out);
  for (size_t i = 0; i < run->remark_count; i++)
    fprintf(out, "  %s: %s\n", run->remarks[i].level == OPS_REMARK_WARNING ? "warning" : "note",
            printable(text, sizeof text, run->remarks[i].text));
  if (!release && run->kernel_command_line[0] && (code == OPS_EXIT_OK || code == OPS_EXIT_WARNINGS))
    fprintf(out,
            "  Only the kernel command line stops the timer tick and RCU there. Add by hand, then "
            "reboot:\n    %s\n",
            run->kernel_command_line);
}

static json_t *pack_change(const struct ops_change *change)
{
  char found[OPS_VALUE_BYTES], wanted[OPS_VALUE_BYTES], path[OPS_PATH_BYTES], remark[512];
  return json_pack("{ss,ss,ss,ss,ss,ss,ss,ss}", "stage", change->stage, "kind",
                   ops_change_kind_name(change->kind), "state",
                   ops_change_state_name(change->state), "path",
                   printable(path, sizeof path, change->path), "label", change->label, "found",
                   printable(found, sizeof found, change->found), "wanted",
                   printable(wanted, sizeof wanted, change->wanted), "remark",
                   printable(remark, sizeof remark, change->remark));
}

int ops_report_json(const struct ops_isolation *run, const char *verb, int code, FILE *out)
{
  char text[1024];
  json_t *changes = json_array(), *remarks = json_array();
  bool failed = code != OPS_EXIT_OK && code != OPS_EXIT_WARNINGS;
  for (size_t i = 0; i < run->count; i++)
    json_array_append_new(changes, pack_change(&run->changes[i]));
  for (size_t i = 0; i < run->remark_count; i++)
    json_array_append_new(
        remarks, json_pack("{ss,ss}", "level",
                           run->remarks[i].level == OPS_REMARK_WARNING ? "warning" : "note", "text",
                           printable(text, sizeof text, run->remarks[i].text)));
  printable(text, sizeof text, failed ? bus_error_message() : "");
  json_t *report = json_pack("{ss,ss,ss,ss,ss,sb,si,ss,so,so,ss}", "verb", verb, "name",
                             run->options.name, "cpus", run->cpus_text, "housekeeping",
                             run->house_text, "mode", ops_isolate_mode_name(run->mode), "dry_run",
                             run->options.dry_run, "exit", code, "error", text, "changes", changes,
                             "remarks", remarks, "kernel_command_line", run->kernel_command_line);
  if (!report)
    return bus_error_set(BUS_ERROR_NO_SPACE, "out of memory for the report");
  int status = json_dumpf(report, out, JSON_INDENT(2));
  json_decref(report);
  fputc('\n', out);
  return status == 0 ? BUS_OK : bus_error_set(BUS_ERROR_IO, "the report cannot be written");
}
