#include "kernels/engine.h"

#include "kernels/engine_cpu.h"
#include "shm/error.h"

#include <string.h>

int bus_engine_open(const char *kind, const struct bus_model *model,
                    const struct bus_engine_config *config, struct bus_engine **engine)
{
  *engine = NULL;
  if (config->batch_max < 1 || config->batch_max > BUS_ENGINE_BATCH_MAX)
    return bus_error_set(BUS_ERROR_INVALID, "engine batch_max %u is outside 1..%u",
                         config->batch_max, BUS_ENGINE_BATCH_MAX);
  if (strcmp(kind, "cuda") == 0)
    return bus_error_set(
        BUS_ERROR_UNSUPPORTED,
        "engine \"cuda\": this build has CPU engines only: use \"auto\", \"scalar\", "
        "\"avx2\" or \"avx512\"");
  if (!bus_engine_cpu_knows(kind))
    return bus_error_set(
        BUS_ERROR_INVALID,
        "engine \"%s\" is unknown: use \"auto\", \"scalar\", \"avx2\" or \"avx512\"", kind);
  return bus_engine_cpu_operations.open(kind, model, config, engine);
}

void bus_engine_close(struct bus_engine *engine)
{
  if (engine != NULL)
    engine->operations->close(engine);
}
