#!/usr/bin/env python3
"""bus-bridge between members and doubles of the servers: every request ends once, whatever happens.

usage: test_bridge.py BUILD_DIRECTORY SOURCE_DIRECTORY [TEST..]

Prints TAP: each test once over each transport. Needs the standard library only, openssl for TLS. No test depends
on how fast the machine is.
"""
import json
import os
import random
import subprocess
import shutil
import sys
import tempfile
import time

import llm_double
import tap
from bridge_bus import Bus, on_each_transport
from llm_servers import WAIT_S, DoubleProcess, wait
from tap import Skip

Bus.build = os.path.abspath(sys.argv[1])
TESTS = []
ON_EACH = on_each_transport(TESTS)
MIB = 1 << 20


# What servers of each kind do.

@ON_EACH
def test_each_flavor_is_understood(transport):
    for flavor in ("mlx", "vllm", "llama", "ollama"):
        with DoubleProcess(flavor=flavor) as double, Bus(transport, {"a": double}).start() as bus:
            text = len(llm_double.answer_text(7))
            for kind in ("chat", "completion"):
                figures = bus.load("@ tokens=7", "--kind", kind, ok=1)
                assert figures["text_bytes"] == text, figures
                bus.load("@ tokens=7", "--kind", kind, "--tokens", 3, length=1)
            bus.load("@ tokens=4 reasoning=5 comments=3", "--partials", ok=1)
            special = bus.load("@ text=utf8 drip=1", ok=1)
            assert special["text_bytes"] == len(llm_double.SPECIAL_TEXT["utf8"].encode())
            special = bus.load("@ text=escapes drip=7", ok=1)
            assert special["text_bytes"] == len(llm_double.SPECIAL_TEXT["escapes"].encode())
            if flavor == "mlx":
                bus.load("@", "--kind", "embedding", bad_request=1)  # by the bridge: it knows
            else:
                figures = bus.load("@ abc", "--kind", "embedding", ok=1)
                assert figures["text_bytes"] == 4 * len(llm_double.embedding("")), figures
            bus.stop()
            for request in double.requests():
                headers, body = request["headers"], json.loads(request["body"])
                assert int(headers["content-length"]) == len(request["body"].encode())
                assert "authorization" in headers and "expect" not in headers and "host" in headers
                assert "transfer-encoding" not in headers and "seed" not in body, request
                assert "embeddings" in request["path"] or body["stream"] is True, body
                if flavor == "mlx":
                    assert "model" not in body and body.get("stream_options") != {}, body


@ON_EACH
def test_each_way_of_answering_is_read(transport):
    with DoubleProcess() as double, Bus(transport, {"a": double}).start() as bus:
        size = len(llm_double.answer_text(9))
        for framing in ("eof", "chunked"):
            for drip in (0, 1, 3, 100):
                figures = bus.load(f"@ tokens=9 framing={framing} drip={drip}", ok=1)
                assert figures["text_bytes"] == size, figures


# What mlx_lm.server 0.32.2 and the server of llama-cpp-python 0.3.36 answered: kind, status, bytes of text.
RECORDED = {
    "mlx_chat": ("chat", "ok", 3), "mlx_completion_length": ("completion", "length", 3),
    "mlx_bad_request": ("chat", "upstream-4xx", None), "mlx_other_model": ("chat", "upstream-4xx", None),
    "mlx_not_json": ("chat", "upstream-4xx", None), "mlx_no_path": ("chat", "upstream-4xx", None),
    "mlx_embedding": ("embedding", "upstream-4xx", None),
    "mlx_empty_stream_options": ("chat", "truncated", 2),  # [DONE] is missing
    "llama_cpp_chat": ("chat", "ok", 3), "llama_cpp_completion_length": ("completion", "length", 3),
    "llama_cpp_other_model": ("chat", "length", 2), "llama_cpp_empty_stream_options": ("chat", "length", 2),
    "llama_cpp_bad_request": ("chat", "upstream-5xx", None), "llama_cpp_not_json": ("chat", "upstream-5xx", None),
    "llama_cpp_no_path": ("chat", "upstream-4xx", None),
    "llama_cpp_too_long": ("completion", "truncated", 0),  # 200, and then nothing
    "llama_cpp_embedding_pooled": ("embedding", "ok", 4 * 320),
    "llama_cpp_embedding_unpooled": ("embedding", "upstream-5xx", None)}


@ON_EACH
def test_what_real_servers_answered(transport):
    answers = os.path.join(os.path.dirname(os.path.abspath(__file__)), "llm_answers")
    assert sorted(RECORDED) == sorted(name.removesuffix(".http") for name in os.listdir(answers))
    with DoubleProcess() as double, Bus(transport, {"a": double}, backend="failures_to_open = 1000").start() as bus:
        for name, (kind, status, size) in RECORDED.items():
            for drip in (0, 1):
                figures = bus.load(f"@ replay={answers}/{name}.http drip={drip}", "--kind", kind)
                assert figures["statuses"] == {status: 1} and size in (None, figures["text_bytes"]), (name, figures)


FAULTS = (  # prompt, the statuses that it may end in
    ("@ cut=0", "truncated"), ("@ cut=1", "truncated"), ("@ cut=60", "truncated"), ("@ tokens=9 cut=700", "truncated"),
    ("@ reset=0", "truncated"), ("@ tokens=9 reset=300", "truncated"),
    ("@ finish=none", "truncated"), ("@ done=0 framing=eof", "truncated"),
    ("@ status=400", "upstream-4xx"), ("@ status=404 error=string", "upstream-4xx"),
    ("@ status=429", "upstream-4xx"), ("@ status=500 error=text", "upstream-5xx"),
    ("@ status=503 error=empty", "upstream-5xx"),
    ("@ stream_error=0", "upstream-5xx"), ("@ stream_error=2", "upstream-5xx"),
    ("@ stream_error=1 error=string", "upstream-5xx"),
    ("@ garbage=http", "upstream-5xx"), ("@ garbage=binary", "upstream-5xx"), ("@ garbage=sse", "upstream-5xx"),
    ("@ garbage=json", "truncated"), ("@ tokens=2 size=1200000", "upstream-5xx"))


@ON_EACH
def test_each_fault_has_its_status(transport):
    with DoubleProcess() as double, Bus(transport, {"a": double}, backend="failures_to_open = 1000").start() as bus:
        for prompt, status in FAULTS:
            # A server that has no time is asked until the deadline.
            figures = bus.load(prompt, "--requests", 3, "--outstanding", 3, "--deadline-ms",
                               600 if "429" in prompt or "503" in prompt else 30000)
            assert set(figures["statuses"]) == {status}, (prompt, figures)
            bus.load("@", ok=1)


@ON_EACH
def test_a_server_that_asks_for_time_gets_it(transport):
    with DoubleProcess() as double, Bus(transport, {"a": double}).start() as bus:
        for status, wish, least_ns in ((429, "1", 1e9), (503, "date:3", 2e9)):
            seen = len(double.requests())
            double.command(set={"status": str(status), "retry_after": wish})
            process = bus.begin_load("--prompt", "@ tokens=5")
            wait(lambda: len(double.requests()) > seen, "the first attempt", process)
            double.command(set={})
            assert bus.end_load(process, ok=1)["attempt"] == 2
            first, second = (event["ns"] for event in double.requests()[seen:])
            assert second - first >= least_ns - 10e6, (status, wish, second - first)
        figures = bus.load("@ status=429 retry_after=7", "--deadline-ms", 5000, upstream_4xx=1)
        assert figures["retry_after_ms"] == 7000 and figures["http_status"] == 429, figures


@ON_EACH
def test_what_hangs_ends_by_the_time_outs(transport):
    options = "first_token_ms = 300\ntoken_ms = 300\nfailures_to_open = 1000"
    with DoubleProcess() as double, Bus(transport, {"a": double}, backend=options).start() as bus:
        for prompt in ("@ hang=0", "@ hang=40", "@ tokens=9 hang=700", "@ prefill_ms=100000", "@ first_ms=100000",
                       "@ gap_ms=100000", "@ tokens=100 drip=1 drip_ms=400"):
            figures = bus.load(prompt, "--requests", 2)
            assert not set(figures["statuses"]) & {"ok", "expired", "local-timeout"}, (prompt, figures)
        assert bus.counters()["a.timed_out"] >= 14
        wait(lambda: double.command()["answering"] == 0, "the double to be left alone")


@ON_EACH
def test_an_answer_may_be_a_mebibyte(transport):
    with DoubleProcess() as double, \
            Bus(transport, {"a": double}, bridge="answer_bytes_max = 2097152\nrecord_bytes = 65536").start() as bus:
        arguments = ("--answer-bytes", 2 * MIB, "--record-bytes", 65536, "--requests", 12, "--outstanding", 4, "--echo")
        figures = bus.load("@ tokens=64 size=16384 echo={n}", *arguments, "--partials", ok=12)
        assert figures["text_bytes"] == 12 * MIB + sum(len(f"{n} ") for n in range(12)), figures
        figures = bus.load("@ tokens=80 size=16384 echo={n}", "--answer-bytes", MIB, *arguments[2:], length=12)
        assert figures["cut"] == 12, figures
        bus.stop()


@ON_EACH
def test_a_thousand_streams_at_once(transport):
    clients = [f"load{i}" for i in range(4)]
    with DoubleProcess() as double, \
            Bus(transport, {"a": double}, clients=clients, backend="concurrency = 1024",
                once="queue_max = 2048", bridge="requests_max = 1024\nrequest_bytes_max = 1024\nanswer_bytes_max = 4096\nrecord_bytes = 1024\n"
                "reply_depth = 4096").start() as bus:
        arguments = ("--clients", 4, "--outstanding", 250, "--record-bytes", 1024, "--answer-bytes", 4096,
                     "--deadline-ms", 120000, "--echo")
        begun = bus.begin_load(*arguments, "--requests", 1000, "--prompt", "@ tokens=4 prefill_ms=8000 gap_ms=20 echo={n}")
        wait(lambda: double.command()["answering"] == 1000, "a thousand streams", begun)
        bus.end_load(begun, ok=1000)
        first = memory_bytes(bus.bridge.pid)
        for _ in range(2):
            bus.load("@ tokens=4 echo={n}", *arguments, "--requests", 2000, ok=2000)
        last = memory_bytes(bus.bridge.pid)
        print(f"# {first >> 10} KiB after 1000 streams, {last >> 10} KiB after 4000 more")
        assert last < first + (8 << 20), (first, last)
        assert double.command()["answering_max"] >= 1000


def memory_bytes(pid):
    """Private memory of a process: its member file is shared."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) << 10


# Who goes first, who is turned away.

@ON_EACH
def test_a_cancelled_request_is_closed_upstream(transport):
    with DoubleProcess() as double, Bus(transport, {"a": double}).start() as bus:
        bus.load("@ tokens=100000 gap_ms=5", "--requests", 8, "--cancel-ms", 200, "--tokens", 100000, cancelled=8)
        wait(lambda: double.command()["answering"] == 0, "the streams to be closed")
        assert {event["how"] for event in double.events("end")} == {"peer"}


@ON_EACH
def test_an_expired_request_is_closed_upstream(transport):
    with DoubleProcess() as double, Bus(transport, {"a": double}).start() as bus:
        figures = bus.load("@ tokens=100000 gap_ms=5", "--requests", 8, "--deadline-ms", 400, "--tokens", 100000,
                           expired=8)
        assert figures["text_bytes"] > 0
        wait(lambda: double.command()["answering"] == 0, "the streams to be closed")
        assert {event["how"] for event in double.events("end")} == {"peer"}


@ON_EACH
def test_urgent_ones_go_first(transport):
    with DoubleProcess() as double, \
            Bus(transport, {"a": double}, clients=("load", "other"), backend="concurrency = 1").start() as bus:
        double.pause()
        normal = bus.begin_load("--requests", 6, "--prompt", "@ normal{n}")
        bus.wait_counter("class.default.accepted", 6)
        urgent = bus.begin_load("--client", "other", "--urgent", "--prompt", "@ urgent")
        bus.wait_counter("class.default.accepted", 7)
        double.resume()
        bus.end_load(urgent, ok=1)
        bus.end_load(normal, ok=6)
        assert ["urgent" in request["body"] for request in double.requests()].index(True) == 1


@ON_EACH
def test_a_full_queue_rejects(transport):
    with DoubleProcess() as double, \
            Bus(transport, {"a": double}, backend="concurrency = 1", once="queue_max = 4").start() as bus:
        double.pause()
        process = bus.begin_load("--requests", 12, "--outstanding", 12, "--prompt", "@")
        bus.wait_counter("final_rejected_queue", 7)
        double.resume()
        bus.end_load(process, ok=5, rejected_queue=7)


@ON_EACH
def test_what_cannot_be_done_in_time_is_rejected(transport):
    with DoubleProcess() as double, \
            Bus(transport, {"a": double}, backend="prefill_tokens_per_s = 40\ndecode_tokens_per_s = 7").start() as bus:
        bus.load("@ tokens=500", "--tokens", 500, "--deadline-ms", 5000, rejected_deadline=1)
        bus.load("@ tokens=5", "--tokens", 6, "--deadline-ms", 20000, ok=1)
        assert len(double.requests()) == 1


@ON_EACH
def test_a_slow_server_is_hedged(transport):
    with DoubleProcess(options=["prefill_ms=60000"]) as slow, DoubleProcess() as fast, \
            Bus(transport, {"slow": slow, "fast": fast},
                once="backends = slow:1000, fast:1\nhedge_after_ms = 100\nhedge_percent = 100").start() as bus:
        figures = bus.load("@ tokens=5", "--requests", 10, "--outstanding", 2, "--idempotent", ok=10)
        assert bus.counters()["hedges"] > 0 and figures["hedged"] > 0, figures
        wait(lambda: slow.command()["answering"] == 0, "the slow answers to be closed")


# Servers that die and return.

BREAKER = "failures_to_open = 3\nopen_ms = 100\nopen_ms_max = 200\nconnect_ms = 500\nfirst_token_ms = 500"


def returns(bus):
    """The breaker was open, and the server is asked again."""
    wait(lambda: bus.counters()["a.breaker"] == 0, "the breaker to close", bus.bridge)
    bus.load("@", "--requests", 5, ok=5)


@ON_EACH
def test_a_server_that_is_killed_and_restarted(transport):
    with DoubleProcess() as double, Bus(transport, {"a": double}, backend=BREAKER).start() as bus:
        bus.load("@", ok=1)
        double.kill()
        figures = bus.load("@", "--requests", 20, "--deadline-ms", 2000)
        assert set(figures["statuses"]) <= {"backend-down", "truncated", "expired"}, figures
        bus.wait_counter("a.opened")
        double.start()
        returns(bus)


@ON_EACH
def test_a_server_that_is_stopped_and_goes_on(transport):
    with DoubleProcess() as double, Bus(transport, {"a": double}, backend=BREAKER).start() as bus:
        bus.load("@", ok=1)
        double.pause()
        figures = bus.load("@", "--requests", 6, "--deadline-ms", 3000)
        assert not set(figures["statuses"]) & {"ok", "local-timeout"}, figures
        bus.wait_counter("a.opened")
        double.resume()
        returns(bus)


@ON_EACH
def test_a_server_that_is_healthy_and_says_nothing(transport):
    with DoubleProcess(flavor="mlx") as double, Bus(transport, {"a": double}, backend=BREAKER).start() as bus:
        bus.load("@", ok=1)
        double.command(set={"hang": "0"})
        bus.load("@", "--requests", 6, "--deadline-ms", 3000)
        bus.wait_counter("a.opened")
        opened = bus.counters()["a.opened"]
        bus.wait_counter("a.opened", opened + 2)  # the canary sings not
        double.command(set={})
        returns(bus)


@ON_EACH
def test_another_server_takes_over(transport):
    with DoubleProcess() as first, DoubleProcess() as second, \
            Bus(transport, {"a": first, "b": second}, backend=BREAKER, once="retries_max = 3").start() as bus:
        process = bus.begin_load("--requests", 400, "--outstanding", 8, "--idempotent", "--echo",
                                 "--prompt", "@ gap_ms=5 echo={n}")
        wait(lambda: first.requests() and second.requests(), "both to be asked", process)
        first.kill()
        bus.end_load(process, ok=400)
        first.start()
        returns(bus)


@ON_EACH
def test_a_kept_connection_that_was_closed_is_made_anew(transport):
    with DoubleProcess(options=["keep_ms=30"]) as double, \
            Bus(transport, {"a": double}, once="retries_max = 2").start() as bus:
        for _ in range(20):
            bus.load("@", "--idempotent", ok=1)
            time.sleep(0.03)  # about when the other side closes


# The bridge and its clients, killed.

STORM = "requests_max = 256\nreply_depth = 256\nrecord_bytes = 1024\nrequest_bytes_max = 2048\nanswer_bytes_max = 4096"


def storm(bus, kills_max, requests, *arguments):
    """Kills the bridge again and again while four members ask. Returns the figures, and how often it was killed."""
    chance, kills = random.Random(bus.transport), 0
    process = bus.begin_load("--clients", 4, "--outstanding", 12, "--requests", requests, "--record-bytes", 1024,
                             "--answer-bytes", 3000, "--echo", "--deadline-ms", 100000, *arguments)
    while process.poll() is None and kills < kills_max:
        time.sleep(chance.random() * 0.03)
        bus.kill()
        kills += 1
        bus.start()
    figures = bus.end_load(process)
    wait(lambda: bus.counters()["in_flight"] == 0, "the bridge to be done", bus.bridge)
    print(f"# {kills} kills, {figures['statuses']}, {bus.counters()['recovered']} recovered")
    assert kills == kills_max or kills >= 20, kills
    return figures


@ON_EACH
def test_kills_of_the_bridge_lose_nothing_and_repeat_nothing(transport):
    clients = [f"load{i}" for i in range(4)]
    with DoubleProcess() as double, \
            Bus(transport, {"a": double}, clients=clients, backend="concurrency = 64", bridge=STORM).start() as bus:
        figures = storm(bus, 150, 8000, "--idempotent", "--partials", "--prompt", "@ tokens=40 size=40 echo={n}")
        assert figures["statuses"] == {"ok": 8000}, figures


@ON_EACH
def test_kills_of_the_bridge_ask_nothing_twice(transport):
    clients = [f"load{i}" for i in range(4)]
    with DoubleProcess() as double, \
            Bus(transport, {"a": double}, clients=clients, backend="concurrency = 64", bridge=STORM).start() as bus:
        figures = storm(bus, 50, 2000, "--prompt", "@ gap_ms=2 echo={n}")
        assert set(figures["statuses"]) == {"ok", "bridge-restart"}, figures
        bodies = [request["body"] for request in double.requests()]
        assert len(bodies) == len(set(bodies)) >= figures["statuses"]["ok"]


@ON_EACH
def test_what_must_not_be_asked_twice_is_not(transport):
    with DoubleProcess() as double, Bus(transport, {"a": double}).start() as bus:
        process = bus.begin_load("--requests", 4, "--prompt", "@ first_ms=100000 once{n}")
        wait(lambda: len(double.requests()) == 4, "the questions", process)
        bus.kill()
        bus.start()
        bus.end_load(process, bridge_restart=4)
        assert len(double.requests()) == 4


@ON_EACH
def test_a_dead_bridge_ends_by_the_clients_clock(transport):
    with DoubleProcess() as double, Bus(transport, {"a": double}).start() as bus:
        process = bus.begin_load("--requests", 4, "--prompt", "@ first_ms=100000", "--deadline-ms", 3000,
                                 "--grace-ms", 300)
        wait(lambda: len(double.requests()) == 4, "the questions", process)
        bus.kill()
        bus.end_load(process, local_timeout=4)


@ON_EACH
def test_a_client_that_is_killed_leaves_nothing_behind(transport):
    with DoubleProcess() as double, \
            Bus(transport, {"a": double}, clients=("load", "other")).start() as bus:
        other = bus.begin_load("--client", "other", "--requests", 300, "--outstanding", 4, "--echo",
                               "--prompt", "@ gap_ms=5 echo={n}")
        for _ in range(10):
            seen = len(double.requests())
            process = bus.begin_load("--requests", 8, "--prompt", "@ gap_ms=10", "--deadline-ms", 5000)
            wait(lambda: len(double.requests()) > seen + 4, "questions", process)
            process.kill()
            process.communicate()
        bus.end_load(other, client="other", ok=300)
        wait(lambda: bus.counters()["in_flight"] == 0, "the bridge to be done", bus.bridge)
        process = bus.begin_load("--requests", 8, "--outstanding", 8, "--prompt", "@")
        out, _ = process.communicate(timeout=WAIT_S)
        assert json.loads(out)["statuses"] == {"ok": 8}, out


@ON_EACH
def test_a_bridge_with_a_new_file_is_found(transport):
    with DoubleProcess() as double, Bus(transport, {"a": double}).start() as bus:
        process = bus.begin_load("--requests", 200, "--outstanding", 4, "--idempotent", "--deadline-ms", 4000,
                                 "--prompt", "@ gap_ms=5")
        wait(lambda: len(double.requests()) > 20, "questions", process)
        bus.kill()
        os.unlink(os.path.join(bus.directory, "bridge"))
        bus.start()
        out, _ = process.communicate(timeout=WAIT_S)
        figures = json.loads(out)
        assert figures["finals"] == 200 and figures["twice"] == 0 and figures["statuses"]["ok"] > 100, figures


@ON_EACH
def test_any_order_of_starting(transport):
    with DoubleProcess() as double, Bus(transport, {"a": double}, backend=BREAKER) as bus:
        double.kill()
        process = bus.begin_load("--requests", 10, "--deadline-ms", 60000, "--prompt", "@ tokens=5")
        wait(lambda: os.path.exists(os.path.join(bus.directory, "load")), "the client", process)
        double.start()
        bus.start()
        bus.end_load(process, ok=10)


# Keys and certificates.

def write(path, text, mode=0o600):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(path, mode)


@ON_EACH
def test_the_key_is_sent_and_its_file_must_be_private(transport):
    with DoubleProcess(key="secret-of-mine") as double, tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "key")
        write(path, "secret-of-mine\n")
        with Bus(transport, {"a": double}, backend=f"api_key_file = {path}").start() as bus:
            bus.load("@", ok=1)
            bus.stop()
            assert "secret-of-mine" not in bus.said(bus.bridge)
            os.chmod(path, 0o644)
            refused = bus.spawn(bus.program(), "--config", bus.config)
            refused.communicate(timeout=WAIT_S)
            assert refused.returncode == 1 and path in bus.said(refused), bus.said(refused)
        with Bus(transport, {"a": double}).start() as bus:
            figures = bus.load("@", upstream_4xx=1)
            assert figures["http_status"] == 401, figures


def make_certificates(directory):
    """A certificate authority of our own, and a certificate for localhost by it."""
    if not shutil.which("openssl"):
        raise Skip("needs openssl")

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], check=True, cwd=directory, capture_output=True)

    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-days", "2",
            "-subj", "/CN=test authority")
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", "server.key", "-out", "server.csr", "-subj",
            "/CN=localhost")
    write(os.path.join(directory, "extensions"), "subjectAltName = DNS:localhost\n")
    openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
            "-extfile", "extensions", "-out", "server.pem")


@ON_EACH
def test_tls(transport):
    with tempfile.TemporaryDirectory() as directory:
        make_certificates(directory)
        certificate = (os.path.join(directory, "server.pem"), os.path.join(directory, "server.key"))
        with DoubleProcess(tls=certificate) as double:
            for host, trusted in (("localhost", True), ("127.0.0.1", False)):
                backend = (f"url = https://{host}:{double.port}/v1\nflavor = vllm\nconnect_ms = 10000\n"
                           f"ca_file = {directory}/ca.pem")
                with Bus(transport, {"a": double}, backend=backend).start() as bus:
                    if trusted:
                        bus.load("@ tokens=20 echo={n}", "--requests", 40, "--outstanding", 8, "--echo", ok=40)
                        bus.load("@ tokens=64 size=2048 drip=1000", ok=1)
                        bus.load("@ tokens=9 reset=300", truncated=1)
                    else:
                        bus.load("@", "--deadline-ms", 5000, backend_down=1)


def main():
    os.chdir(os.path.dirname(os.path.abspath(__file__)))
    # What AddressSanitizer keeps of freed memory is no growth.
    os.environ.setdefault("ASAN_OPTIONS", "quarantine_size_mb=1:thread_local_quarantine_size_kb=64")
    wanted = sys.argv[3:]
    tap.main([test for test in TESTS if not wanted or any(name in test.__name__ for name in wanted)], ())


if __name__ == "__main__":
    main()
