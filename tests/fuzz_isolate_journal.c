/* Any bytes as a journal: read or refused; what was read can be appended to and read again. */
#include "tools/ops/isolate_journal.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct ops_system roots;
static char path[OPS_PATH_BYTES];

static void prepare(void)
{
  static char root[64] = "/dev/shm/signal-bus-fuzz-XXXXXX";
  if (path[0])
    return;
  if (!mkdtemp(root) || ops_system_init(&roots, root) != BUS_OK)
    abort();
  close(ops_journal_lock(&roots));
  ops_path_join(path, roots.run_root, "isolate-bus.journal");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  struct ops_journal journal;
  prepare();
  int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  if (fd < 0 || write(fd, data, size) != (ssize_t)size)
    abort();
  close(fd);
  if (ops_journal_read(&roots, "bus", &journal) == BUS_OK) {
    size_t count = journal.count;
    struct ops_change change = {.path = "/p", .found = "0", .wanted = "1"};
    if (ops_journal_open(&journal) != BUS_OK || ops_journal_append(&journal, &change) != BUS_OK)
      abort();
    ops_journal_close(&journal);
    if (ops_journal_read(&roots, "bus", &journal) != BUS_OK || journal.count != count + 1)
      abort();
  }
  ops_journal_close(&journal);
  return 0;
}
