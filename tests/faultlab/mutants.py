#!/usr/bin/env python3
"""The laboratory's own test: faults put into copies of the library, each of which it must find.

usage: mutants.py --source ROOT --build DIR --library LIB --objects DIR [--only NAME] [--list] [--seed N]
                  [--jobs N] -- COMPILER [FLAGS..]

For each mutant a copy of shm/ is edited in DIR, the edited parts and operations.c are compiled with
COMPILER and linked with the laboratory's objects before the library, and the named experiments are
run. The mutant is caught when one of them fails with a verdict of its own. Output is TAP, a line
for each mutant. An edit that does not apply any more, a mutant that does not compile and one that
survives fail the run.
"""
import argparse
import concurrent.futures
import pathlib
import re
import shutil
import subprocess
import sys

# name: (what is wrong, [(file, old text, new text)..], experiments that must find it)
MUTANTS = {
    "stamp-before-payload": (
        "the stamp is visible while the payload is written",
        [("ring.h", "  BUS_FENCE_RELEASE(); /* P1 */\n",
          "  BUS_FENCE_RELEASE(); /* P1 */\n"
          "  BUS_STORE_RELEASE(bus_slot_stamp(slot, producer->record_size), producer->next + 1);\n")],
        ["snapshot-publish", "pairs-publish-consume", "kill-publish"]),
    "stamp-off-by-one": (
        "the stamp is the position",
        [("ring.h", "bus_slot_stamp(slot, producer->record_size), position + 1); /* P2 */",
          "bus_slot_stamp(slot, producer->record_size), position); /* P2 */")],
        ["snapshot-publish"]),
    "takeover-from-sequence": (
        "a successor goes on from the lazily written sequence, not from the stamps",
        [("ring.c", "  producer->next = bus_ring_head(memory, entry);",
          "  producer->next = producer->header->sequence;")],
        ["kill-publish", "snapshot-takeover", "kill-storm"]),
    "head-without-residue": (
        "a stamp that cannot belong to its slot counts as the newest",
        [("ring.c", "if (((stamp - 1) & mask) != i)", "if (mask > BUS_RING_DEPTH_MAX)")],
        ["scribble-takeover"]),
    "position-before-read": (
        "the position is published before the record is read",
        [("ring.h", "  if (BUS_LIKELY(stamp == consumer->next + 1))\n    return slot;",
          "  if (BUS_LIKELY(stamp == consumer->next + 1)) {\n"
          "    BUS_STORE_RELEASE(&consumer->position->position, consumer->next + 1);\n"
          "    return slot;\n  }")],
        ["snapshot-consume", "kill-consume"]),
    "instance-before-position": (
        "a position that counts in an old file is declared to count in the new one",
        [("ring.c", "    BUS_STORE_RELEASE(&position->ring_instance, (uint64_t)0);",
          "    BUS_STORE_RELEASE(&position->ring_instance, instance);")],
        ["snapshot-attach", "kill-attach"]),
    "magic-before-layout": (
        "a new file has its magic before all else is in place",
        [("member.c", "  *member->header = member->plan;",
          "  member->plan.magic = BUS_MAGIC;\n  *member->header = member->plan;")],
        ["snapshot-create", "kill-create"]),
    "magic-kept-by-delete": (
        "a deleted file still looks alive to those who map it",
        [("member.c", "      BUS_STORE_RELEASE(magic, (uint64_t)0);", "      (void)magic;")],
        ["snapshot-delete"]),
    "limit-off-by-one": (
        "the producer may write one record over an unread one",
        [("ring.c", "  producer->limit = position + producer->depth;",
          "  producer->limit = position + producer->depth + 1;")],
        ["snapshot-publish", "interleave-publish", "stop-consumer-wait"]),
    "limit-without-consumer": (
        "a producer that has no consumer yet overwrites what is unread",
        [("ring.c", ": producer->consumed + entry->depth;", ": producer->next + entry->depth;")],
        ["snapshot-publish"]),
    "impossible-position-believed": (
        "a position ahead of the producer is believed",
        [("ring.c", "if (position - producer->consumed > producer->next - producer->consumed) {",
          "if (producer->depth == 0) {")],
        ["scribble-attached"]),
    "rejection-not-counted": (
        "an impossible position is ignored but not counted",
        [("ring.c", "                      producer->header->positions_rejected + 1);",
          "                      producer->header->positions_rejected);")],
        ["scribble-attached"]),
    "drop-not-counted": (
        "a dropped record is not counted",
        [("ring.c", "  BUS_STORE_RELAXED(refused, *refused + 1);", "  (void)refused;")],
        ["stop-consumer-drop"]),
    "overrun-not-counted": (
        "an observer that is lapped does not count what it lost",
        [("ring.c", "  observer->lost += resume - observer->next;", "")],
        ["interleave-observe", "stop-observer-overwrite"]),
    "lapped-consumer-not-counted": (
        "a consumer that is lapped does not count what it lost",
        [("ring.c", "      skip_lost(consumer, resume);",
          "    {\n      consumer->next = resume;\n      bus_consumer_publish(consumer);\n    }")],
        ["lost-is-counted"]),
    "lost-away-miscounted": (
        "a consumer that comes back counts one too few",
        [("ring.c", "      skip_lost(consumer, oldest);",
          "    {\n      skip_lost(consumer, oldest);\n"
          "      BUS_STORE_RELEASE(&position->lost, position->lost - 1);\n    }")],
        ["lost-is-counted"]),
    "join-unconfirmed": (
        "a consumer joins though the producer may still go by an earlier file",
        [("ring.c", "  return position->ring_instance == instance ||\n         BUS_LOAD",
          "  return true || BUS_LOAD")],
        ["replace-consumer"]),
    "join-at-oldest": (
        "a consumer that joins begins with what the producer had counted as consumed",
        [("ring.c", "  return consumed - oldest <= head - oldest ? consumed : oldest;",
          "  return oldest;")],
        ["replace-consumer"]),
    "skip-position-first": (
        "a skip moves the position before it has noted what it loses",
        [("ring.c", "  BUS_STORE_RELEASE(&position->skip_to, position->position - 1);",
          "  consumer->next = to;\n  bus_consumer_publish(consumer);\n"
          "  BUS_STORE_RELEASE(&position->skip_to, position->position - 1);")],
        ["kill-skip"]),
    "skip-not-finished": (
        "nobody counts what a killed consumer's skip had lost",
        [("ring.c", "  finish_skip(position);\n", "")],
        ["kill-skip"]),
    "skip-not-finished-elsewhere": (
        "a skip that was cut short counts only where the ring's file is still the same",
        [("ring.c", "  finish_skip(position);\n  if",
          "  if (position->ring_instance == instance)\n    finish_skip(position);\n  if")],
        ["kill-skip"]),
    "neighbour-check-dropped": (
        "an observer does not look for an overwrite that has begun",
        [("ring.h", "  if (BUS_LOAD_RELAXED(bus_slot_stamp(before, observer->record_size)) != next || last != next + 1)",
          "  (void)before;\n  if (last != next + 1)")],
        ["interleave-observe"]),
    "copied-stamp-unchecked": (
        "an observer takes a copy of record 0 that a truncation cut short",
        [("ring.h", " || last != next + 1)", ")")],
        ["truncate-instruction"]),
    "position-too-seldom": (
        "the consumer publishes its position half as often as it says",
        [("ring.h", "consumer->next - consumer->published >= consumer->publish_every",
          "consumer->next - consumer->published >= 2 * consumer->publish_every")],
        ["snapshot-consume", "kill-consume"]),
    "position-not-published-when-idle": (
        "the first empty poll does not publish the position",
        [("ring.c", "  if (consumer->published != consumer->next)\n    bus_consumer_publish(consumer);",
          "")],
        ["interleave-publish", "snapshot-consume"]),
    "owner-not-locked": (
        "the file of a living member can be had",
        [("member.c", "  if (fcntl(fd, F_OFD_SETLK, &lock) == 0)\n    return BUS_OK;",
          "  (void)fcntl(fd, F_OFD_SETLK, &lock);\n  return BUS_OK;")],
        ["stop-consumer-wait", "stop-producer"]),
    "epoch-not-raised": (
        "a successor has its predecessor's epoch",
        [("member.c", "BUS_STORE_RELAXED(&member->header->epoch, member->header->epoch + 1);", "")],
        ["snapshot-takeover", "kill-takeover"]),
    "guard-dropped": (
        "nobody catches the SIGBUS of a truncated file",
        [("mapping.c", "  error = bus_fault_guard_add(mapping->base, mapping->size, &mapping->truncated);",
          "")],
        ["truncate-instruction", "truncate-boundary"]),
    "size-unchecked": (
        "a file that is shorter than its header says is let in",
        [("layout.c", "  if (header->file_size != file_size || file_size", "  if (file_size")],
        ["wrong-size"]),
    "hash-unchecked": (
        "the layout hash is not compared",
        [("layout.c", "  if (bus_layout_hash(header, entries) != header->layout_hash)",
          "  if (header->entry_count > BUS_ENTRIES_MAX)")],
        ["wrong-field"]),
    "bounds-unchecked": (
        "an object that lies outside the file is let in",
        [("layout.c", " || entry->offset > file_size ||\n      bytes > file_size - entry->offset)", ")")],
        ["wrong-field"]),
    "path-not-named": (
        "a refusal does not name its file",
        [("neighbour.c", "    return bus_error_context(error, \"%s\", neighbour->path);\n  size_t",
          "    return error;\n  size_t")],
        ["wrong-size", "wrong-field"]),
}


def edited(source, name):
    """The library's files that this mutant changes, as text; exits loudly when an edit is stale."""
    files = {}
    for file, old, new in MUTANTS[name][1]:
        text = files.get(file) or (source / "shm" / file).read_text(encoding="utf-8")
        if text.count(old) != 1:
            raise LookupError(f"the edit of shm/{file} applies {text.count(old)} times, not once: "
                              f"bring it up to date in tests/faultlab/mutants.py")
        files[file] = text.replace(old, new)
    return files


def build(name, options):
    """Compiles the mutant; returns its program."""
    directory = options.build / name
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(options.source / "shm", directory / "shm")
    (directory / "lab").mkdir()
    for file in ("operations.c", "operations.h", "lab.h"):
        shutil.copy(options.source / "tests" / "faultlab" / file, directory / "lab" / file)
    files = edited(options.source, name)
    for file, text in files.items():
        (directory / "shm" / file).write_text(text, encoding="utf-8")
    units = {"ring.c", "subscription.c"} | {file for file in files if file.endswith(".c")}
    sources = [str(directory / "lab" / "operations.c")]
    sources += [str(directory / "shm" / unit) for unit in sorted(units)]
    program = directory / "faultlab"
    objects = [str(item) for item in sorted(options.objects.glob("*.o")) if item.name != "operations.c.o"]
    command = [*options.compiler, "-std=c17", "-O1", "-w", "-D_GNU_SOURCE", f"-I{directory}", *sources,
               *objects, options.library, "-lnuma", "-lm", "-lpthread", "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"does not compile:\n{done.stderr[-2000:]}")
    return program


def hunt(name, options):
    """(ok, description): the first experiment that finds it."""
    try:
        program = build(name, options)
    except (LookupError, RuntimeError) as error:
        return "not ok", str(error)
    skipped = 0
    for experiment in MUTANTS[name][2]:
        done = subprocess.run([program, "--experiment", experiment, "--seed", str(options.seed),
                               "--kills", "3000"], capture_output=True, text=True, check=False)
        verdict = re.search(r"^# (?!seed|again)(.+)$", done.stdout, re.MULTILINE)
        if done.returncode == 1 and verdict:
            return "ok", f"{MUTANTS[name][0]}: caught by {experiment}: {verdict.group(1)}"
        skipped += done.returncode == 77
    if skipped == len(MUTANTS[name][2]):
        return "ok", "# SKIP its experiments cannot run here"
    return "not ok", f"{MUTANTS[name][0]}: SURVIVED {', '.join(MUTANTS[name][2])} (seed {options.seed})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=pathlib.Path)
    parser.add_argument("--build", type=pathlib.Path)
    parser.add_argument("--library")
    parser.add_argument("--objects", type=pathlib.Path, help="the directory of the laboratory's objects")
    parser.add_argument("--only", action="append")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("compiler", nargs="*")
    options = parser.parse_args()
    if options.list:
        for name, (what, _, experiments) in MUTANTS.items():
            print(f"{name:34} {what} ({', '.join(experiments)})")
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
            print(f"{verdict} {number} - {name}{' ' if first.startswith('#') else ': '}{first}")
            for line in rest:
                print(f"#   {line}")
            sys.stdout.flush()
            survived += verdict != "ok"
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
