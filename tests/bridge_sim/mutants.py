#!/usr/bin/env python3
"""The simulation's own test: defects put into copies of the bridge, each of which it must find.

usage: mutants.py --source ROOT --build DIR --objects DIR [--only NAME] [--list] [--seeds N] [--seconds N]
                  [--link LIBRARY ..] -- COMPILER [FLAGS..]

For each mutant one file of consumers/ is edited, compiled with COMPILER and linked with the
simulation's objects before the libraries. It is caught when a run of at most N seeds (or that many
seconds) breaks an invariant. Output is TAP, a line for each mutant. An edit that does not apply any
more, a mutant that does not compile and one that survives fail the run.
"""
import argparse
import concurrent.futures
import pathlib
import re
import subprocess
import sys

# name: (what is wrong, file, old text, new text)
MUTANTS = {
    "released-before-claimed": (
        "a request is released in its ring before it is in the table", "bridge_port.c",
        "  set_state(port, entry, BUS_BRIDGE_CLAIMED);\n  release(port, entry->request.fragments);\n",
        "  release(port, entry->request.fragments);\n  set_state(port, entry, BUS_BRIDGE_CLAIMED);\n"),
    "position-not-moved": (
        "a successor does not skip what its predecessor had just claimed", "bridge_port.c",
        "  move_past(port, entry);\n", "  (void)move_past;\n"),
    "reply-never-whole": (
        "a successor answers again what its predecessor had published", "bridge_port.c",
        "port->replies->next == entry->reply_position + entry->reply_slots_used",
        "port->replies->next == entry->reply_position + UINT32_MAX"),
    "reply-always-whole": (
        "a successor takes the beginning of a final reply for all of it", "bridge_port.c",
        "port->replies->next == entry->reply_position + entry->reply_slots_used",
        "port->replies->next >= entry->reply_position"),
    "room-not-given-back": (
        "the room of an answered request stays reserved", "bridge_port.c",
        "  set_state(port, entry, BUS_BRIDGE_FREE);\n  give_back_room(port, entry);\n  return BUS_OK;\n",
        "  set_state(port, entry, BUS_BRIDGE_FREE);\n  return BUS_OK;\n"),
    "partials-take-the-reserve": (
        "partial replies take the room that is held for final ones", "bridge_port.c",
        "has_room(port->replies, slots + port->reserved_slots + port->replies->depth / 8)",
        "has_room(port->replies, slots)"),
    "room-not-asked-for": (
        "a request is taken though there is no room for its final reply", "bridge_port.c",
        "!has_room(port->replies, port->reserved_slots + reply_slots)",
        "!has_room(port->replies, reply_slots)"),
    "last-fragment-missing": (
        "a request is taken before its last fragment is there", "bridge_port.c",
        "port->gathered < port->first.fragments)", "port->gathered + 1u < port->first.fragments)"),
    "restart-asks-again": (
        "after a restart everything is asked again, idempotent or not", "bridge_intake.c",
        "(expired || !bus_bridge_core_is(entry, BUS_LLM_IDEMPOTENT))", "expired"),
    "deadline-not-set": (
        "no timer runs for the deadline of a request", "bridge_intake.c",
        "  bus_bridge_heap_set(&core->deadlines, id, entry->request.deadline_ns);\n", ""),
    "retries-what-is-not-idempotent": (
        "what failed is asked again, idempotent or not", "bridge_outcome.c",
        "!repeatable || request->retries >=", "request->retries >="),
    "retries-without-end": (
        "retries are not counted", "bridge_outcome.c", "  request->retries++;\n", ""),
    "partials-from-the-start": (
        "each partial reply says that it stands at the beginning", "bridge_outcome.c",
        "  reply.text_offset = (uint32_t)*told;\n", "  reply.text_offset = 0;\n"),
    "loss-not-said": (
        "a final reply does not say that partial ones were left out", "bridge_outcome.c",
        "    request->reply_flags |= BUS_LLM_LOST;\n", ""),
    "hedges-without-budget": (
        "more requests are hedged than the class allows", "bridge_dispatch.c",
        "(class->hedges + 1) * 100 > class->config->hedge_percent * class->accepted",
        "class->accepted == 0"),
    "sent-unnoted": (
        "the table does not say that a request may have been sent", "bridge_dispatch.c",
        "    entry->sent = 1;\n", ""),
    "attempts-not-numbered": (
        "every attempt is the first", "bridge_dispatch.c",
        "attempt->number = ++entry->attempts;", "attempt->number = entry->attempts = 1;"),
    "reserve-not-kept": (
        "what is not urgent takes the reserve too", "bridge_backend.c",
        "config->concurrency - (urgent ? 0 : config->urgent_reserve)", "config->concurrency + 0 * urgent"),
    "one-failure-more": (
        "the breaker opens a failure late", "bridge_backend.c",
        "backend->failures >= backend->config->failures_to_open",
        "backend->failures > backend->config->failures_to_open"),
    "breaker-stays-closed": (
        "the breaker never opens", "bridge_backend.c",
        "  if (opens)\n    open_breaker(backend, now_ns);\n", "  (void)open_breaker;\n"),
    "connections-left-open": (
        "a core that ends leaves its connections open", "bridge_core.c",
        "    bus_bridge_attempt_close(&core->attempts[slot], core->options.transport);\n"
        "    bus_llm_answer_free", "    bus_llm_answer_free"),
    "done-without-finish": (
        "[DONE] alone makes an answer whole", "llm_answer.c",
        "  if (parser->finish == BUS_LLM_VERDICT_MORE)\n    return decide(answer, BUS_LLM_VERDICT_TRUNCATED);\n",
        "  if (parser->finish == BUS_LLM_VERDICT_MORE)\n    parser->finish = BUS_LLM_VERDICT_OK;\n"),
}


def build(name, options):
    """Compiles the mutant; returns its program."""
    _, file, old, new = MUTANTS[name]
    text = (options.source / "consumers" / file).read_text(encoding="utf-8")
    if text.count(old) != 1:
        raise LookupError(f"the edit of consumers/{file} applies {text.count(old)} times, not once: "
                          f"bring it up to date in tests/bridge_sim/mutants.py")
    directory = options.build / name
    directory.mkdir(parents=True, exist_ok=True)
    mutant = directory / file
    mutant.write_text(text.replace(old, new), encoding="utf-8")
    objects = [str(item) for item in sorted(options.objects.glob("*.o"))]
    program = directory / "bridge_sim"
    command = [*options.compiler, "-std=c17", "-O1", "-w", "-D_GNU_SOURCE", '-DBUS_VERSION="0"',
               f"-I{options.source}", str(mutant), *objects, *options.link, "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"does not compile:\n{done.stderr[-2000:]}")
    return program


def hunt(name, options):
    """(verdict, description): the first invariant that it breaks."""
    try:
        program = build(name, options)
    except (LookupError, RuntimeError) as error:
        return "not ok", str(error)
    command = [program, "--seeds", str(options.seeds), "--jobs", "1"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=options.seconds)
    except subprocess.TimeoutExpired:
        return "not ok", f"{MUTANTS[name][0]}: SURVIVED {options.seconds} s"
    broken = re.search(r"^# BROKEN (.+)\n# again: .* --seed (\d+)", done.stdout, re.MULTILINE)
    if done.returncode == 1 and broken:
        return "ok", f"{MUTANTS[name][0]}: caught by seed {broken.group(2)}: {broken.group(1)}"
    return "not ok", f"{MUTANTS[name][0]}: SURVIVED {options.seeds} seeds (status {done.returncode})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=pathlib.Path)
    parser.add_argument("--build", type=pathlib.Path)
    parser.add_argument("--objects", type=pathlib.Path, help="the directory of the simulation's objects")
    parser.add_argument("--link", action="append", default=[], help="a library, in the order of linking")
    parser.add_argument("--only", action="append")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--seeds", type=int, default=20000)
    parser.add_argument("--seconds", type=int, default=150, help="for one mutant")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("compiler", nargs="*")
    options = parser.parse_args()
    if options.list:
        for name, (what, file, _, _) in MUTANTS.items():
            print(f"{name:32} {what} ({file})")
        return 0
    names = options.only or list(MUTANTS)
    unknown = [name for name in names if name not in MUTANTS]
    if unknown or not options.compiler:
        parser.error(f"no such mutant: {', '.join(unknown)}" if unknown else "no compiler is given")
    print(f"1..{len(names)}")
    survived = 0
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for number, (name, result) in enumerate(zip(names, pool.map(lambda n: hunt(n, options), names)), 1):
            verdict, text = result
            first, *rest = text.splitlines()
            print(f"{verdict} {number} - {name}: {first}")
            for line in rest:
                print(f"#   {line}")
            sys.stdout.flush()
            survived += verdict != "ok"
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
