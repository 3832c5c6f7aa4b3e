#!/usr/bin/env python3
"""The real programs over real captures: capture file -> bus-feed -> bus-infer -> bus-trader.

usage: end_to_end.py BUILD_DIRECTORY SOURCE_DIRECTORY DATA_DIRECTORY [TEST..]

Prints TAP. Needs the standard library only. Tests over recorded captures skip, aloud, where DATA_DIRECTORY
has none. No test depends on how fast the machine is.
"""
import gzip
import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree

import tap
from tap import Skip

BUILD, SOURCE, DATA = (os.path.abspath(path) for path in sys.argv[1:4])
FEED = os.path.join(BUILD, "producers", "bus-feed")
INFER = os.path.join(BUILD, "consumers", "bus-infer")
TRADER = os.path.join(BUILD, "consumers", "bus-trader")
BENCH = os.path.join(BUILD, "tools", "bench", "bus-bench")
BENCH_MANUAL = os.path.join(SOURCE, "tools", "man", "bus-bench.1")
MODEL = os.path.join(SOURCE, "kernels", "models", "default.model")
SPOT = os.path.join(DATA, "binance", "spot_btcusdt_20240808.gz")
USDM = os.path.join(DATA, "binance", "usdm_ethusdt_20240808.gz")
WAIT_S = 240  # for what must happen, however slow the machine
SIGNAL = struct.Struct("<QQq3fIIHHHHbBBBQ")
FEATURE_BYTES = 128
COUNTER = 3


def need(path):
    if not os.path.exists(path):
        raise Skip(f"no recorded capture at {path}")
    return path


class Bus:
    """A bus directory of its own, with processes that never outlive it."""

    def __init__(self):
        self.directory = tempfile.mkdtemp(prefix="signalbus-e2e-", dir="/dev/shm")
        self.processes = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        shutil.rmtree(self.directory)

    def path(self, name):
        return os.path.join(self.directory, name)

    def start(self, program, *arguments, **options):
        process = subprocess.Popen([program, "--bus", self.directory, *map(str, arguments)],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
        self.processes.append(process)
        return process

    def infer(self, *arguments):
        return self.start(INFER, "--model", MODEL, "--ring-depth", 131072, *arguments)

    def trader(self, output, *arguments):
        return self.start(TRADER, "--table", "never", "--feed", "feed", "--from-oldest", "--output", output,
                          *arguments)

    def counters(self, member):
        """Reads a member's counters straight from its file, by the layout in shm/ABI.md."""
        with open(self.path(member), "rb") as file:
            image = file.read()
        count = struct.unpack_from("<I", image, 120)[0]
        result = {}
        for i in range(count):
            at = 512 + i * 128
            if struct.unpack_from("<I", image, at + 80)[0] == COUNTER:
                name = image[at:at + 32].split(b"\0")[0].decode()
                result[name] = struct.unpack_from("<Q", image, struct.unpack_from("<Q", image, at + 104)[0])[0]
        return result

    def wait_running(self, member):
        until = time.monotonic() + WAIT_S
        while time.monotonic() < until:
            try:
                with open(self.path(member), "rb") as file:
                    header = file.read(512)
                if len(header) == 512 and header[:8] == b"SIGBUS01" and header[256] == 2:
                    return
            except FileNotFoundError:
                pass
            time.sleep(0.005)
        raise AssertionError(f"member {member} is not running")


def finish(process, status=0):
    out, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == status, f"exit {process.returncode}, expected {status}\n{out}\n{err}"
    return out, err


def stop(process):
    process.send_signal(signal.SIGTERM)
    return finish(process)


def read_signals(path):
    """Each signal without its time fields: when, how long, how many at once, on which CPU path."""
    with open(path, "rb") as file:
        data = file.read()
    result = []
    for fields in SIGNAL.iter_unpack(data):
        (_, position, target, sell, flat, buy, _, _, _, source, symbol, model, direction, confidence, _, flags,
         stamp) = fields
        scores = struct.pack("<3f", sell, flat, buy)
        result.append((position, target, scores, source, symbol, model, direction, confidence, flags & 3, stamp))
    return result


def run_chain(capture, *, market="spot", speed="max", engine="auto", batch_max=16, idle="backoff"):
    with Bus() as bus:
        output = bus.path(".signals")
        infer = bus.infer("--engine", engine, "--batch-max", batch_max, "--idle", idle)
        bus.wait_running("infer")
        trader = bus.trader(output)
        bus.wait_running("trader")
        feed = bus.start(FEED, "--capture", capture, "--market", market, "--speed", speed,
                         *(["--doorbell"] if idle == "doorbell" else []))
        finish(feed)
        report, _ = finish(trader)
        stop(infer)
        assert "tick received -> signal visible" in report, report
        return read_signals(output), {name: bus.counters(name) for name in ("feed", "infer", "trader")}


def write_features(capture, market, output):
    result = subprocess.run([FEED, "--capture", capture, "--market", market, "--output", output],
                            capture_output=True, text=True, timeout=WAIT_S)
    assert result.returncode == 0, result.stderr
    with open(output, "rb") as file:
        return file.read()


def shorten(capture, lines, path):
    """The first `lines` lines of a capture, so that tests of speed or kills end soon."""
    with gzip.open(capture, "rb") as source, open(path, "wb") as file:
        for _ in range(lines):
            file.write(source.readline())
    return path


def test_same_features_from_two_runs():
    for capture, market in ((SPOT, "spot"), (USDM, "usdm")):
        need(capture)
        with tempfile.TemporaryDirectory() as directory:
            first = write_features(capture, market, os.path.join(directory, "a"))
            second = write_features(capture, market, os.path.join(directory, "b"))
            assert len(first) % FEATURE_BYTES == 0 and len(first) > 40000 * FEATURE_BYTES
            assert first == second


def test_every_feature_of_a_capture_becomes_one_signal():
    signals, counters = run_chain(need(SPOT))
    assert counters["feed"]["records"] == len(signals) > 41000
    assert [s[0] for s in signals] == list(range(len(signals)))
    assert counters["feed"]["depth_gaps"] == 0 and counters["feed"]["garbage_lines"] == 0
    assert counters["infer"]["features_lost"] == 0


def test_nothing_is_allocated_after_start():
    for capture, market in ((SPOT, "spot"), (USDM, "usdm")):
        _, counters = run_chain(need(capture), market=market)
        if not uses_jemalloc():
            raise Skip("built without jemalloc: allocations are not counted")
        for member in ("feed", "infer", "trader"):
            assert counters[member]["allocated_bytes"] == 0, (member, counters[member]["allocated_bytes"])


def uses_jemalloc():
    linked = subprocess.run(["ldd", FEED], capture_output=True, text=True).stdout
    return "jemalloc" in linked


def test_same_signals_on_every_cpu_path_and_speed():
    need(SPOT)
    with tempfile.TemporaryDirectory() as directory:
        capture = shorten(SPOT, 12000, os.path.join(directory, "part"))
        reference, _ = run_chain(capture, engine="scalar", batch_max=1)
        assert len(reference) > 11000
        for options in ({"engine": "auto"}, {"engine": "avx2"}, {"engine": "avx512"}, {"speed": 40},
                        {"batch_max": 64}, {"speed": 40, "idle": "doorbell"}):
            kind = options.get("engine", "auto")
            if kind != "auto" and not engine_runs(kind):
                print(f"# skipped {kind}: this CPU does not have it")
                continue
            signals, _ = run_chain(capture, **options)
            assert signals == reference, options


def engine_runs(kind):
    with Bus() as bus:
        infer = bus.infer("--engine", kind)
        time.sleep(0.2)
        return infer.poll() is None


def kill_at_random(bus, names, starters, processes, kills, seed):
    """Kills one of the members every few milliseconds and starts it again at once."""
    choose = random.Random(seed)
    for _ in range(kills):
        time.sleep(choose.uniform(0.001, 0.06))
        name = choose.choice(names)
        if processes[name].poll() is not None:
            return
        processes[name].kill()
        processes[name].wait()
        processes[name] = starters[name]()


def test_kills_lose_nothing_and_repeat_nothing():
    with tempfile.TemporaryDirectory() as directory, Bus() as quiet, Bus() as bus:
        arguments = ["--synthetic", "--seed", 7, "--messages", 40000]

        def chain(on, output, disturb):
            starters = {
                "infer": lambda: on.infer(),
                "feed": lambda: on.start(FEED, *arguments, "--speed", 20, "--ring-depth", 1024),
                "trader": lambda: on.start(TRADER, "--table", "never", "--name", "other"),
            }
            processes = {"infer": starters["infer"]()}
            on.wait_running("infer")
            watcher = on.start(TRADER, "--table", "never", "--feed", "feed", "--from-oldest", "--observe-only",
                               "--output", output)
            processes["trader"] = starters["trader"]()
            processes["feed"] = starters["feed"]()
            if disturb:
                kill_at_random(on, ("feed", "infer", "trader"), starters, processes, 60, 1)
            finish(processes["feed"])
            finish(watcher)
            stop(processes["infer"])
            stop(processes["trader"])
            return read_signals(output)

        reference = chain(quiet, os.path.join(directory, "quiet"), False)
        signals = chain(bus, os.path.join(directory, "killed"), True)
        positions = [s[0] for s in signals]
        assert positions == list(range(len(positions))), "lost or repeated"
        assert signals == reference, "other bits after kills"
        with open(bus.path("infer"), "rb") as file:
            epoch = struct.unpack_from("<Q", file.read(512), 176)[0]
        assert epoch > 1, "no kill hit bus-infer"


def run_feed(*arguments):
    with Bus() as bus:
        return subprocess.run([FEED, "--bus", bus.directory, *map(str, arguments)], capture_output=True, text=True,
                              timeout=WAIT_S)


def test_bad_captures_are_named():
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "capture.gz")
        good = b"".join(b'%d {"stream":"b@trade","data":{"e":"trade","E":1,"s":"BTCUSDT","t":%d,"p":"5.0","q":"1.0",'
                        b'"T":1,"m":true}}\n' % (10**18 + i, i) for i in range(2000))
        with open(path, "wb") as file:
            file.write(gzip.compress(good)[:-3000])
        result = run_feed("--capture", path, "--policy", "overwrite", "--speed", "max")
        assert result.returncode == 1 and path in result.stderr, result
        with open(path, "wb") as file:
            file.write(b"\x1f\x8b" + os.urandom(5000))
        result = run_feed("--capture", path, "--policy", "overwrite", "--speed", "max")
        assert result.returncode == 1 and path in result.stderr, result
        result = run_feed("--capture", os.path.join(directory, "none"))
        assert result.returncode == 1 and "none" in result.stderr, result
        with open(path, "wb") as file:
            file.write(good[:1000] + b"\n{}{}garbage\n" + b"9" * (1 << 20) + b"\n" + b"\0\xff" * 50 + b"\n" + good)
        with Bus() as bus:
            feed = bus.start(FEED, "--capture", path, "--policy", "overwrite", "--speed", "max")
            finish(feed)
            counters = bus.counters("feed")
            assert counters["oversize_lines"] == 1, counters
            assert counters["garbage_lines"] >= 2, counters
            assert counters["trades"] >= 2000, counters


def test_bad_models_are_named():
    with tempfile.TemporaryDirectory() as directory:
        with open(MODEL, "rb") as file:
            model = bytearray(file.read())
        flipped = bytearray(model)
        flipped[2000] ^= 1
        dimensions = bytearray(model)
        struct.pack_into("<I", dimensions, 28, 100000)
        for name, image, word in (("crc", flipped, "CRC"), ("dims", dimensions, "dims"),
                                  ("short", model[:-1], "short"), ("empty", b"", "empty")):
            path = os.path.join(directory, name)
            with open(path, "wb") as file:
                file.write(image)
            with Bus() as bus:
                infer = bus.start(INFER, "--model", path)
                _, err = finish(infer, 1)
                assert path in err, (word, err)


def test_busy_denied_and_foreign():
    with Bus() as bus:
        first = bus.infer()
        bus.wait_running("infer")
        _, err = finish(bus.infer(), 1)
        assert str(first.pid) in err and "infer" in err, err
        stop(first)
        with open(bus.path("feed"), "w") as file:
            file.write("somebody's notes\n" * 1000)
        _, err = finish(bus.start(FEED), 1)
        assert "foreign" in err, err
        with open(bus.path("feed")) as file:
            assert file.read().startswith("somebody's notes")
    result = subprocess.run([FEED, "--bus", "/dev/shm/signalbus-none"], capture_output=True, text=True)
    assert result.returncode == 1 and "signal-busctl create" in result.stderr, result
    result = subprocess.run([FEED, "--speed", "fast"], capture_output=True, text=True)
    assert result.returncode == 2 and "fast" in result.stderr, result


def run_bench(*arguments, status=0):
    result = subprocess.run([BENCH, *map(str, arguments)], capture_output=True, text=True, timeout=WAIT_S)
    assert result.returncode == status, f"bus-bench {arguments}: {result.returncode}\n{result.stdout}\n{result.stderr}"
    return result.stdout, result.stderr


def need_two_cores():
    if len(os.sched_getaffinity(0)) < 2:
        raise Skip("one core only")


def measure(*arguments, groups, repeat=2):
    """Runs a benchmark and checks the shape of all that it writes; returns {(group, measure): it}."""
    with tempfile.TemporaryDirectory() as directory:
        paths = [os.path.join(directory, name) for name in ("out.json", "out.svg")]
        table, _ = run_bench(*arguments, "--repeat", repeat, "--no-canary", "--no-fifo", "--json", paths[0],
                             "--svg", paths[1])
        with open(paths[0], encoding="utf-8") as file:
            report = json.load(file)
        picture = xml.etree.ElementTree.parse(paths[1]).getroot()
    assert report["benchmark"] == arguments[0] and report["about"]["machine"] in table, table
    assert [group["name"] for group in report["groups"]] == groups, report["groups"]
    for group in report["groups"]:
        assert len(group["trials"]) == repeat and not any(trial["rejected"] for trial in group["trials"])
        assert group["name"] in table
    for found in report["measures"]:
        assert len(found["trials"]) == repeat and found["group"] in groups, found
        assert found["lowest"] <= found.get("median", found.get("mean")) <= found["highest"], found
        if "count" in found:
            quantiles = [ns for _, ns in found["quantiles_ns"]]
            assert quantiles == sorted(quantiles) and quantiles[-1] == found["max_ns"], found
    svg = "{http://www.w3.org/2000/svg}"
    assert picture.tag == svg + "svg" and len(picture.findall(".//" + svg + "polyline")) >= len(groups)
    return {(found["group"], found["name"].strip()): found for found in report["measures"]}


def test_bench_feed_takes_every_line():
    measures = measure("feed", "--count", 3000, groups=["synthetic"])
    assert measures["synthetic", "single messages"]["count"] == 2 * 3000
    kinds = [measures["synthetic", kind]["count"] for kind in ("depth", "bookTicker", "trade", "snapshot", "other")]
    assert sum(kinds) == 2 * 3000 and all(kinds[:4]) and kinds[4] == 0, kinds
    names = [os.path.basename(need(capture)) for capture in (SPOT, USDM)]
    measures = measure("feed", "--capture", SPOT, "--capture", USDM, "--market", "usdm", "--count", 2000, groups=names)
    for name in names:
        assert measures[name, "single messages"]["count"] == 2 * 2000
        assert measures[name, "mean of all messages"]["unit"] == "ns/message"


def test_bench_tick_checks_every_signal():
    need_two_cores()
    for options, batch in (([], 1), (["--idle", "backoff", "--interval", 0], 1), (["--batch", 8], 8)):
        measures = measure("tick", "--model", MODEL, "--engine", "scalar", "--count", 800, *options, groups=["scalar"])
        for name in ("published -> visible", "published -> taken", "inference", "inferred -> visible", "due -> visible"):
            assert measures["scalar", name]["count"] == 2 * 800, (options, name)
        together = measures["scalar", "ticks inferred together"]
        assert 1 <= together["lowest"] and together["highest"] <= batch, together
    kinds = [kind for kind in ("scalar", "avx2", "avx512") if engine_runs(kind)]
    measure("tick", "--model", MODEL, "--engine", "all", "--count", 300, groups=kinds)
    assert not [name for name in os.listdir("/dev/shm") if name.startswith("bus-bench.")], "a bus was left behind"


def run_ring(*arguments):
    with tempfile.TemporaryDirectory() as directory:
        paths = [os.path.join(directory, name) for name in ("out.json", "out.svg")]
        table, _ = run_bench("ring", "--count", 500, "--depth", 64, "--repeat", 2, "--no-canary", "--no-fifo",
                             "--json", paths[0], "--svg", paths[1], *arguments)
        with open(paths[0], encoding="utf-8") as file:
            report = json.load(file)
        picture = xml.etree.ElementTree.parse(paths[1]).getroot()
    assert picture.findall(".//{http://www.w3.org/2000/svg}polyline"), "nothing is plotted"
    for found in report["measures"]:
        if found["group"] == "comparison":
            assert found["unit"] == "ratio" and found["median"] >= 0, found
            continue
        assert found["unit"] == "ns" and len(found["trials"]) == 2 and all(found["trials"]), found
        assert ("count" in found) == (found["name"] == "paced"), found
        assert found.get("count", 1024) == 2 * 512, found  # 500 rounded up to whole batches, two repetitions
    return table, report, {(found["group"], found["name"]) for found in report["measures"]}


def test_bench_ring_checks_every_message():
    need_two_cores()
    table, report, found = run_ring("--observer", "--rings", "1,4")
    workloads = ("saturated", "hungry", "rtt", "paced")
    for size in ("8 B", "64 B", "128 B", "16 KiB"):
        for workload in workloads:
            assert (f"signal-bus, {size}", workload) in found, (size, workload)
            assert (f"signal-bus, idle observer, {size}", workload) in found, (size, workload)
            assert ("comparison", f"{size}, {workload}: observed / alone") in found, found
        assert size in table and (f"limit: bare lines, {size}", "saturated") in found, size
    for rings in ("1 rings", "4 rings"):
        assert all((f"signal-bus, {rings}, 64 B", workload) in found for workload in workloads if workload != "rtt")
    # A peer takes part, or the report says that it was not there.
    absent = " ".join(text for name, text in report["about"].items() if name.startswith("absent"))
    for peer, label in (("ck_ring", ""), ("DPDK rte_ring", ""), ("boost spsc_queue", ""),
                        ("ReaderWriterQueue", ", threads")):
        takes_part = all((f"{peer}{label}, 64 B", workload) in found for workload in workloads)
        assert takes_part != (peer in absent), (peer, absent)
    _, _, found = run_ring("--mode", "threads", "--size", "128", "--workload", "paced,rtt", "--wait", "tight")
    assert ("signal-bus, threads, 128 B", "paced") in found and ("signal-bus, threads, 128 B", "rtt") in found
    assert not [name for name in found if "64 B" in name[0] or name[1] == "hungry"], found
    assert not [name for name in os.listdir("/dev/shm") if name.startswith("bus-bench.")], "a bus was left behind"


def test_bench_refusals_are_named():
    for arguments, status, word in (
            (["ring", "--size", "12"], 2, "12"), (["ring", "--workload", "lazy"], 2, "lazy"),
            (["ring", "--depth", "100"], 2, "power of two"), (["ring", "--rings", "1,3"], 2, "powers of two"),
            (["ring", "--mode", "x"], 2, "processes"), (["ring", "--wait", "x"], 2, "tight"),
            (["none"], 2, "none"), ([], 2, "--help"), (["feed", "--repeat", 0], 2, "repetitions"),
            (["feed", "--market", "usdm"], 2, "--capture"), (["feed", "--model", "x"], 2, "--help"),
            (["tick", "--cores", "1,x"], 2, "core"), (["tick", "extra"], 2, "extra"),
            (["feed", "--capture", "/nowhere.gz"], 1, "/nowhere.gz"), (["feed", "--cores", 9999], 1, "9999"),
            (["feed", "--json", "/nowhere/out"], 1, "/nowhere/out"), (["tick", "--model", "/nowhere"], 1, "/nowhere"),
            (["tick", "--model", MODEL, "--engine", "abacus"], 1, "abacus"),
            (["tick", "--model", MODEL, "--cores", "0,0"], 1, "different cores")):
        _, err = run_bench(*arguments, status=status)
        assert word in err, (arguments, err)


def test_bench_manual_has_every_option():
    with open(BENCH_MANUAL, encoding="utf-8") as file:
        manual = file.read().replace("\\-", "-")
    overview, _ = run_bench("--help")
    names = re.findall(r"^  (\w+)  ", overview, re.MULTILINE)
    assert {"feed", "tick", "ring"} <= set(names), overview
    for name in names:
        text, _ = run_bench(name, "--help")
        options = set(re.findall(r"--[a-z-]*[a-z]", text))
        assert "--repeat" in options, text
        missing = [option for option in options if not re.search(re.escape(option) + r"\b(?!-)", manual)]
        assert not missing, f"bus-bench.1 lacks {missing} of {name}"
        assert f"bus-bench {name}" in manual, name


if __name__ == "__main__":
    tap.main(tap.named(globals()), sys.argv[4:])
