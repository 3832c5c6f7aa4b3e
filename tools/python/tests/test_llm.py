"""Asking language models, against a bridge without servers: tests/fake_bridge.c of a build directory."""

import ctypes
import importlib.util
import os
import shutil
import subprocess
import tempfile

import numpy as np
import pytest

import signalbus
from signalbus import SignalBusError, export, layout, llm


class Bridge:
    def __init__(self, build, directory):
        self.program = os.path.join(build, "tests", "fake_bridge")
        self.directory = directory
        self.process = None

    def start(self):
        self.process = subprocess.Popen(
            [self.program, self.directory, "ask"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout.readline() == "ready\n"

    def stop(self):
        if self.process:
            self.process.communicate()
            self.process = None


@pytest.fixture
def bridge(build, monkeypatch):
    library = os.path.join(build, "shm", "libsignalbus.so")
    result = Bridge(build, tempfile.mkdtemp(prefix=f"signalbus-llm-{os.getpid()}-", dir="/dev/shm"))
    if not os.path.exists(library) or not os.path.exists(result.program):
        pytest.skip("no libsignalbus or fake_bridge in the build directory")
    monkeypatch.setenv("SIGNALBUS_LIBRARY", library)
    yield result
    result.stop()
    shutil.rmtree(result.directory)


@pytest.fixture
def client(bridge):
    bridge.start()
    with llm.Client(bus=bridge.directory) as result:
        yield result


def test_structs_are_those_of_the_library():
    header = llm._Header
    assert ctypes.sizeof(header) == layout.LLM_REPLY.itemsize
    for name, *_ in header._fields_:
        assert getattr(header, name).offset == layout.LLM_REPLY.fields[name][1], name


def test_ask(client):
    reply = client.ask("echo", "is the answer w\u00f6rth it?", tokens=9, temperature=0.5)
    assert reply.text == "is the answer w\u00f6rth it?" and reply.status == layout.LlmStatus.OK and reply.is_final
    assert (reply.backend, reply.prompt_tokens, reply.completion_tokens, reply.attempt) == ("fake", 3, 5, 1)
    assert reply.submitted_ns <= reply.accepted_ns <= reply.done_ns
    assert client.outstanding == 0 and client.waits_for() == ""
    long = "many words " * 9000
    assert client.ask("echo", long).text == long


def test_messages(client):
    messages = [{"role": "user", "content": "hi"}]
    assert client.ask("echo", messages).text == '[{"role": "user", "content": "hi"}]'


def test_stream(client):
    text = "pieces of five bytes, and \u20ac \u20ac \u20ac cut"
    pieces = list(client.stream("echo", text))
    assert "".join(pieces) == text and len(pieces) > 3
    assert "".join(client.stream("lossy", text)) == text
    with pytest.raises(llm.LlmError) as error:
        list(client.stream("restart", text))
    assert error.value.reply.text == text


def test_embedding(client):
    vector = client.embed("embed", "x")
    assert vector.dtype == np.float32 and vector.tolist() == [1, 2.5, -3]


@pytest.mark.parametrize("status", range(2, 13))
def test_other_ends(client, status):
    with pytest.raises(llm.LlmError, match="by fake, HTTP 418, again in 1.5 s: because") as error:
        client.ask(f"status-{status}", "x")
    assert error.value.reply.status == status


def test_many_at_a_time(client):
    ids = [client.submit("echo", str(i)) for i in range(16)]
    with pytest.raises(llm.BusyError):
        client.submit("echo", "x")
    for i in reversed(range(16)):
        (reply,) = client.replies(ids[i])
        assert reply.text == str(i)
    with pytest.raises(SignalBusError, match="not outstanding"):
        next(client.replies(ids[0]))
    first, second = client.submit("echo", "a"), client.submit("echo", "b")
    assert {client.poll(60).id, client.poll(60).id} == {first, second}
    assert client.poll() is None


def test_cancel(client):
    identity = client.submit("silent", "x")
    assert client.cancel(identity)
    (reply,) = client.replies(identity)
    assert reply.status == layout.LlmStatus.CANCELLED
    assert not client.cancel(identity)


def test_leaving_a_stream_cancels(client):
    stream = client.stream("echo", "some pieces of this")
    assert next(stream)
    stream.close()
    assert client.poll(0.2) is None
    assert client.ask("echo", "next").text == "next"


def test_any_start_order(bridge):
    with llm.Client(bus=bridge.directory, grace_s=0.01) as client:
        assert "bridge" in client.waits_for()
        with pytest.raises(llm.LlmError, match="local-timeout"):
            client.ask("echo", "x", deadline_s=0.01)
        identity = client.submit("echo", "later")
        bridge.start()
        (reply,) = client.replies(identity)
        assert reply.text == "later"
        bridge.stop()
        bridge.start()
        assert client.ask("echo", "again").text == "again"


def test_refusals(client, bridge):
    for arguments, options, words in (
        (("", "x"), {}, "class ''"),
        (("echo", "x"), {"deadline_s": 0}, "deadline"),
        (("echo", "x"), {"temperature": -1.0}, "temperature"),
        (("echo", "x" * 2_000_000), {}, "request_depth"),
    ):
        with pytest.raises(SignalBusError, match=words):
            client.submit(*arguments, **options)
    with pytest.raises(SignalBusError, match="1..23"):
        llm.Client("a" * 24, bridge.directory)
    with pytest.raises(SignalBusError, match="owned by running process"):  # a live process has that name
        llm.Client(bus=bridge.directory)
    client.close()
    with pytest.raises(SignalBusError, match="closed"):
        client.submit("echo", "x")


def test_without_the_library(monkeypatch, tmp_path):
    monkeypatch.setenv("SIGNALBUS_LIBRARY", "")
    with pytest.raises(SignalBusError, match="libsignalbus, which is not found.*SIGNALBUS_LIBRARY"):
        llm.Client()
    monkeypatch.setenv("SIGNALBUS_LIBRARY", str(tmp_path / "nothing.so"))
    with pytest.raises(SignalBusError, match="nothing.so.*install the release"):
        llm.Client()


def test_what_was_said_is_in_a_capture(bridge, client, build, tmp_path):
    recorder = os.path.join(build, "consumers", "bus-record")
    if not os.path.exists(recorder):
        pytest.skip("no bus-record in the build directory")
    prompt = "a w\u00f6rd " * 3000
    assert client.ask("echo", prompt).text == prompt
    client.embed("embed", "x")
    subprocess.run(
        [recorder, "--bus", bridge.directory, "--output", tmp_path / "capture", "--duration", "0.5"], check=True
    )
    capture = signalbus.open_capture(tmp_path / "capture")
    capture.verify()
    requests, replies = capture["ask.llm.requests"], capture["bridge.replies.ask"]
    assert requests.record_type == layout.RecordType.LLM_REQUEST
    assert replies.record_type == layout.RecordType.LLM_REPLY
    columns = requests.columns()
    assert columns["class_name"].tolist() == ["echo", "echo", "embed"]
    assert b"".join(columns["text"][:2]).decode() == prompt and columns["text"][2] == b"x"
    assert columns["submitted_ns"].tolist() == np.concatenate([b.times_ns for b in requests.blocks()]).tolist()
    columns = replies.columns()
    assert columns["backend"].tolist() == ["fake"] * 3
    assert np.frombuffer(columns["text"][2], "<f4").tolist() == [1, 2.5, -3]
    for library, convert in (
        ("pandas", replies.to_pandas),
        ("polars", replies.to_polars),
        ("pyarrow", replies.to_arrow),
    ):
        if importlib.util.find_spec(library):
            assert len(convert()) == 3
    if importlib.util.find_spec("pyarrow") and importlib.util.find_spec("mcap"):
        assert export.main(["--format", "arrow", str(tmp_path / "capture"), str(tmp_path / "arrow")]) == 0
        assert export.main(["--format", "mcap", str(tmp_path / "capture"), str(tmp_path / "all.mcap")]) == 0
