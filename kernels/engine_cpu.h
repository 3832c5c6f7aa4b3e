/* engine_cpu.h: the engines that run on the calling core: scalar C (the reference), AVX2 with FMA,
 * and AVX-512F. Use them through engine.h. */
#ifndef SIGNALBUS_KERNELS_ENGINE_CPU_H
#define SIGNALBUS_KERNELS_ENGINE_CPU_H

#include "kernels/engine.h"
#include "kernels/mlp.h"

/* Opened with "auto", "scalar", "avx2" or "avx512". */
extern const struct bus_engine_operations bus_engine_cpu_operations;

/* Whether `kind` is one of these names, on any CPU and in any build. Pure. */
bool bus_engine_cpu_knows(const char *kind);

/* The path called `name` if this build has it and this CPU and operating system can run it, else
 * NULL. Any thread. */
const struct bus_mlp_path *bus_engine_cpu_path(const char *name);

#endif
