#!/usr/bin/env python3
"""bus-bridge over real servers: mlx_lm.server and the one of llama-cpp-python, each with a model of tiny_models.py.

usage: test_bridge_servers.py BUILD_DIRECTORY SOURCE_DIRECTORY [TEST..]

Prints TAP. Needs PyPI the first time, and minutes of a C++ compiler for llama.cpp: what cannot be had is skipped, and
the reason said. LLM_SERVERS_S limits the time that may take, in seconds for each server.
"""
import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile

import python_venv
import tap
import tiny_models
from bridge_bus import TRANSPORTS, Bus
from llm_servers import WAIT_S, RealServer, wait

Bus.build = os.path.abspath(sys.argv[1])
ASK = os.path.join(Bus.build, "consumers", "bus-ask")
INSTALL_S = int(os.environ.get("LLM_SERVERS_S", "420"))
MLX = ("mlx-lm[cpu]==0.32.2",)
LLAMA = ("llama-cpp-python[server]==0.3.36",)
OPTIONS = "tokens_max = 8000\nretries_max = 0"


@contextlib.contextmanager
def mlx_server(directory):
    programs = python_venv.make(Bus.build, "tests-venv-mlx", MLX, INSTALL_S)
    model, home = os.path.join(directory, "model"), os.path.join(directory, "home")
    tiny_models.write_mlx(model)
    os.makedirs(os.path.join(home, "hub"))
    environment = {"HF_HOME": home, "HF_HUB_OFFLINE": "1", "MLX_DISABLE_COMPILE": "1"}
    with RealServer("mlx", [os.path.join(programs, "mlx_lm.server"), "--model", model], environment,
                    os.path.join(directory, "mlx.log")) as server:
        yield server


@contextlib.contextmanager
def llama_server(directory):
    programs = python_venv.make(Bus.build, "tests-venv-llama", LLAMA, INSTALL_S)
    model = os.path.join(directory, "tiny.gguf")
    tiny_models.write_gguf(model)
    with RealServer("llama", [os.path.join(programs, "python3"), "-m", "llama_cpp.server", "--model", model,
                              "--n_ctx", str(tiny_models.CONTEXT), "--embedding", "true"], {},
                    os.path.join(directory, "llama.log")) as server:
        yield server


def ask(bus, prompt, *options, status=0):
    done = subprocess.run([ASK, "--bus", bus.directory, "--json", *map(str, options), prompt], capture_output=True,
                          text=True, timeout=WAIT_S)
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr, bus.said(bus.bridge))
    return json.loads(done.stdout)


def check_answers(bus):
    """The model's answer is known: what the last letter is decides it."""
    reply = ask(bus, "the letter x")
    assert (reply["status"], reply["text"]) == ("ok", "yz."), reply
    reply = ask(bus, "the letter w", "--completion", "--no-stream")
    assert (reply["status"], reply["text"]) == ("ok", "xyz."), reply
    reply = ask(bus, "the number 7", "--max-tokens", 5, status=3)
    assert (reply["status"], reply["text"]) == ("length", "89012"), reply
    reply = ask(bus, json.dumps([{"role": "user", "content": "Grüße \"1\"\n"}, {"role": "assistant", "content": "z"},
                                 {"role": "user", "content": "v"}]), "--messages")
    assert (reply["status"], reply["text"]) == ("ok", "wxyz."), reply


def check_load(bus):
    figures = bus.load("@ {n} y", "--requests", 24, "--outstanding", 6, "--partials", "--deadline-ms", 110000, ok=24)
    assert figures["text_bytes"] == 24 * len("z.") and figures["partials"] > 0, figures


def check_ends(bus, server):
    """What nobody waits for any more is no longer made: others get their answers."""
    bus.load("number 1", "--requests", 2, "--tokens", 8000, "--cancel-ms", 500, "--partials", cancelled=2)
    figures = bus.load("number 1", "--requests", 2, "--tokens", 8000, "--deadline-ms", 700, expired=2)
    assert figures["text_bytes"] >= 0
    assert ask(bus, "x")["text"] == "yz."
    wait(lambda: bus.counters()["a.in_flight"] == 0, "the server to be left alone", bus.bridge)
    server.process.kill()
    server.process.wait()
    figures = bus.load("x", "--deadline-ms", 3000)
    assert set(figures["statuses"]) <= {"backend-down", "expired", "truncated"}, figures


def over_each_transport(make_server, backend, *checks):
    with tempfile.TemporaryDirectory() as directory, make_server(directory) as server:
        for transport in TRANSPORTS:
            with Bus(transport, {"a": server}, clients=("load", "ask"), backend=backend, once=OPTIONS).start() as bus:
                for check in checks:
                    check(bus)
                if transport == TRANSPORTS[-1]:
                    check_ends(bus, server)
                bus.stop()


def test_mlx_lm_server():
    over_each_transport(mlx_server, "", check_answers, check_load)


def check_embedding(bus):
    """The mean over the letters of one 1 for each, scaled by the model's norm."""
    reply = ask(bus, "ab", "--embedding")
    vector = reply["embedding"]
    assert len(vector) == tiny_models.HIDDEN, len(vector)
    seen = [i for i, value in enumerate(vector) if value > 1e-3]
    assert seen == [ord("a"), ord("b")] and math.isclose(vector[seen[0]], vector[seen[1]], rel_tol=1e-3), seen


def test_llama_cpp_server():
    # Of two requests at a time it gives the first up in the middle, as if it were whole.
    over_each_transport(llama_server, "concurrency = 1", check_answers, check_embedding, check_load)


if __name__ == "__main__":
    os.chdir(os.path.dirname(os.path.abspath(__file__)))
    tap.main(tap.named(globals()), sys.argv[3:])
