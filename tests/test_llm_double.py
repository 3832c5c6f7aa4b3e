#!/usr/bin/env python3
"""The double of the servers does what it is asked: what the tests of the bridge rest on.

usage: test_llm_double.py [TEST..]

Prints TAP. Needs the standard library only.
"""
import json
import os
import socket
import sys

import llm_double
import tap
from llm_servers import DoubleProcess


def ask(double, prompt, path="/v1/chat/completions", headers="Authorization: Bearer x\r\n", **more):
    """All bytes of the answer until the other side ends it; and whether that was a reset."""
    body = {"max_tokens": 1000, **more}
    body.update({"messages": [{"role": "user", "content": prompt}]} if "chat" in path else {"prompt": prompt})
    text = json.dumps(body)
    with socket.create_connection(("127.0.0.1", double.port)) as connection:
        connection.settimeout(30)
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}"
                           f"Content-Length: {len(text)}\r\n\r\n{text}".encode())
        data = b""
        try:
            while piece := connection.recv(65536):
                data += piece
        except ConnectionResetError:
            return data, True
        return data, False


def said(data):
    """The text of a streamed answer."""
    text = ""
    for line in data.split(b"\n"):
        if line.startswith(b"data: {"):
            for choice in json.loads(line[6:])["choices"]:
                text += choice.get("text", choice.get("delta", {}).get("content", ""))
    return text


def test_each_flavor_streams():
    for flavor in ("mlx", "vllm", "llama", "ollama"):
        with DoubleProcess(flavor=flavor) as double:
            for path in ("/v1/chat/completions", "/v1/completions"):
                data, broken = ask(double, "@ tokens=5", path, stream_options={"include_usage": True})
                assert not broken and said(data) == llm_double.answer_text(5), data
                assert b'"usage"' in data and b"data: [DONE]" in data and b'"finish_reason": "stop"' in data
                assert data.startswith(b"HTTP/1.0 200" if flavor == "mlx" else b"HTTP/1.1 200")
            assert [event["how"] for event in double.events("end")] == ["whole", "whole"]


def test_faults_are_byte_exact():
    with DoubleProcess() as double:
        whole, _ = ask(double, "@ tokens=5")
        for count in (0, 1, 40, 200, len(whole) - 1):
            assert ask(double, f"@ tokens=5 cut={count}") == (whole[:count], False)
            data, broken = ask(double, f"@ tokens=5 reset={count}")
            assert broken and whole.startswith(data)
        data, _ = ask(double, "@ tokens=5 drip=1")
        assert data == whole


def test_refusals():
    with DoubleProcess(key="secret") as double:
        assert ask(double, "@")[0].startswith(b"HTTP/1.1 401")
        right = "Authorization: Bearer secret\r\n"
        data, _ = ask(double, "@ status=429 retry_after=7", headers=right)
        assert data.startswith(b"HTTP/1.1 429") and b"Retry-After: 7\r\n" in data
        data, _ = ask(double, "@ status=503 retry_after=date:60", headers=right)
        assert b"GMT\r\n" in data
        data, _ = ask(double, "@ tokens=3 stream_error=1", headers=right)
        assert said(data.replace(b'data: {"error', b"")) == "t0 " and data.index(b"error") < data.index(b"[DONE]")
    with DoubleProcess(flavor="mlx") as double:
        assert ask(double, "@", model="other")[0].startswith(b"HTTP/1.0 404")
        assert ask(double, "@", max_tokens="many")[0] == b""
        assert b"[DONE]" not in ask(double, "@", stream_options={})[0]
        assert ask(double, "@", headers="Transfer-Encoding: chunked\r\n")[0].startswith(b"HTTP/1.0 411")


def test_a_peer_that_leaves_is_noticed():
    with DoubleProcess() as double:
        text = json.dumps({"prompt": "@ tokens=1000000 gap_ms=1"})
        with socket.create_connection(("127.0.0.1", double.port)) as connection:
            connection.sendall(f"POST /v1/completions HTTP/1.1\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode())
            connection.recv(100)
        double.wait(lambda: double.events("end"), "the end")
        assert double.events("end")[0]["how"] == "peer"
        double.wait(lambda: double.command()["connections"] == 0, "the connection to be over")


def test_it_refuses_dies_and_returns():
    with DoubleProcess() as double:
        double.command(listen=False)
        try:
            ask(double, "@")
            raise AssertionError("taken")
        except ConnectionRefusedError:
            pass
        double.command(listen=True)
        assert said(ask(double, "@")[0]) == llm_double.answer_text(3)
        port = double.port
        double.kill()
        double.start()
        assert double.port == port and said(ask(double, "@")[0]) == llm_double.answer_text(3)
        double.command(set={"hang": "0"})
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 200")


if __name__ == "__main__":
    os.chdir(os.path.dirname(os.path.abspath(__file__)))
    tap.main(tap.named(globals()), sys.argv[1:])
