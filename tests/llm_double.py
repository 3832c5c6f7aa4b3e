#!/usr/bin/env python3
"""A double of servers for language models, which does on request what such servers do wrong.

usage: llm_double.py [--flavor mlx|vllm|llama|ollama] [--port N] [--control N] [--log FILE] [--key KEY]
                     [--tls CERTIFICATE KEY] [--set KEY=VALUE ..]

Prints {"port": N, "control": N} when it listens. How it answers is said by words of the prompt: everything behind
the first "@", as "@ tokens=20 gap_ms=5". What the prompt does not say is taken from --set or the control port, then
from DEFAULTS below. The control port takes a JSON object on each line and answers with one:

    {"set": {"status": "503"}}   for all prompts from now on (replaces what was set)
    {"listen": false}            refuse connections (true: take them again)
    {"count": true}              {"connections": now, "requests": so far, "answering": now, "answering_max": so far}

The log has a JSON object on each line: "open", "request" (what was asked, whole), "end" (how the answer ended: "whole",
"cut", "reset", "hung", or "peer", when the other side closed first), "closed".
"""
import argparse
import asyncio
import email.utils
import json
import socket
import ssl
import struct
import sys
import time

DEFAULTS = {
    "tokens": "3",       # of the answer
    "size": "0",         # bytes of each token; 0: "t0 ", "t1 ", ..
    "first_ms": "0",     # before the first byte
    "prefill_ms": "0",   # between the head and the first token
    "gap_ms": "0",       # between tokens
    "reasoning": "0",    # tokens of reasoning before those of the answer
    "comments": "0",     # SSE comments before the first token
    "comment_ms": "0",   # between those
    "finish": "stop",    # finish_reason; none: is never sent
    "done": "1",         # send data: [DONE]
    "drip": "0",         # send so many bytes at a time ..
    "drip_ms": "0",      # .. with so long between; 0: as separate packets
    "cut": "",           # close in order when so many bytes of the answer were sent
    "reset": "",         # reset likewise
    "hang": "",          # send no more likewise, and stay connected
    "status": "200",
    "retry_after": "",   # seconds, or date:SECONDS for a date so far from now
    "error": "",         # body of an error: object, string, text, empty; "": as the flavor does it
    "stream_error": "",  # an error instead of token N, then [DONE]
    "garbage": "",       # instead of an answer: http, json, binary, sse
    "replay": "",        # the bytes of this file instead, then close
    "framing": "",       # eof, chunked, length; "": as the flavor does it
    "keep_ms": "",       # close an idle connection so long after its answer; "": as the flavor does it
    "echo": "",          # the first token, with a blank behind
    "text": "",          # the answer, instead of tokens: utf8 or escapes
}
SPECIAL_TEXT = {"utf8": "Grüße, 世界, 🌍: split me anywhere.", "escapes": "\"\\/\b\f\n\r\t\u0001\u2028 end"}
KEEP_MS = {"mlx": 0, "vllm": 5000, "llama": 60000, "ollama": 60000}
PAIR = struct.Struct("ii")


def token_text(number, size):
    return f"t{number} " if size == 0 else (f"t{number} " + "x" * size)[:size]


def answer_text(tokens, size=0):
    """What an answer of so many tokens says: for those who check it."""
    return "".join(token_text(number, size) for number in range(tokens))


def embedding(text):
    """Of a text: its length, its first byte, and the quarters up to 1."""
    return [float(len(text)), float(text.encode()[0] if text else 0), 0.25, 0.5, 0.75, 1.0]


class Peer(Exception):
    """The other side has gone."""


class Ended(Exception):
    """The answer ended early, because it was told to."""


class Connection:
    def __init__(self, server, reader, writer):
        self.server, self.reader, self.writer = server, reader, writer
        self.sent, self.options, self.number = 0, dict(DEFAULTS), server.connections_ever
        self.chunked = self.keep = False
        self.pending = b""

    def log(self, event, **fields):
        self.server.log(event=event, connection=self.number, **fields)

    def number_of(self, key):
        return int(self.options[key] or 0)

    async def pause(self, key):
        if self.number_of(key):
            await asyncio.sleep(self.number_of(key) / 1000)

    # Out.

    async def raw(self, data):
        """Sends bytes as far as the answer may go, then does to the connection what it was told to do."""
        for how in ("cut", "reset", "hang"):
            if self.options[how] != "" and self.sent + len(data) >= int(self.options[how]):
                await self.drip(data[:int(self.options[how]) - self.sent])
                if how == "hang":
                    await asyncio.Event().wait()
                if how == "reset":
                    self.reset()
                raise Ended(how)
        await self.drip(data)

    async def drip(self, data):
        step = self.number_of("drip") or len(data) or 1
        for start in range(0, len(data), step):
            piece = data[start:start + step]
            self.writer.write(piece)
            self.sent += len(piece)
            await self.writer.drain()
            if step < len(data):
                await asyncio.sleep(self.number_of("drip_ms") / 1000)

    def reset(self):
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, PAIR.pack(1, 0))
        self.writer.transport.abort()

    async def body(self, data):
        if data and self.chunked:
            data = b"%x\r\n%s\r\n" % (len(data), data)
        await self.raw(data)

    async def event(self, content):
        text = content if isinstance(content, str) else json.dumps(content)
        await self.body(f"data: {text}\n\n".encode())

    async def head(self, status, kind, length=None):
        version = "1.0" if self.server.flavor == "mlx" else "1.1"
        lines = [f"HTTP/{version} {status} {'OK' if status == 200 else 'Trouble'}", "Server: double",
                 f"Content-Type: {kind}"]
        if length is not None:
            lines.append(f"Content-Length: {length}")
        elif self.chunked:
            lines.append("Transfer-Encoding: chunked")
        if not self.keep and version == "1.1":
            lines.append("Connection: close")
        wish = self.options["retry_after"]
        if wish.startswith("date:"):
            wish = email.utils.formatdate(time.time() + float(wish[5:]), usegmt=True)
        if wish:
            lines.append(f"Retry-After: {wish}")
        await self.raw("\r\n".join([*lines, "", ""]).encode())

    async def whole(self, status, kind, data):
        """An answer of one piece."""
        self.chunked, mlx = False, self.server.flavor == "mlx"
        self.keep = self.keep or self.server.flavor != "mlx"
        await self.head(status, kind, None if mlx else len(data))
        await self.raw(data)

    def error_object(self, status, message):
        form = self.options["error"] or {"mlx": "string", "ollama": "object"}.get(self.server.flavor, "object")
        code = None if self.server.flavor == "ollama" else status
        return {"string": {"error": message}, "text": message, "empty": "",
                "object": {"error": {"message": message, "type": "Trouble", "param": None, "code": code}}}[form]

    async def refuse(self, status, message):
        content = self.error_object(status, message)
        data = content if isinstance(content, str) else json.dumps(content)
        await self.whole(status, "application/json", data.encode())

    async def garbage(self, how):
        if how == "http":
            await self.raw(b"220 mail.example ESMTP\r\n500 what?\r\n")
        elif how == "binary":
            await self.raw(bytes(range(256)) * 16)
        elif how == "json":
            await self.whole(200, "application/json", b'{"choices": [{"index": 0, "mess')
        else:
            await self.head(200, "text/event-stream")
            await self.event('{"choices": [{"delta": {"content": ')
            await self.event("[DONE]")
        raise Ended("cut")

    # In.

    async def read_more(self):
        data = await self.reader.read(65536)
        if not data:
            raise Peer
        self.pending += data

    async def request(self):
        """The next request as a dict; None when no other came in time."""
        while b"\r\n\r\n" not in self.pending:
            await self.read_more()
        head, _, self.pending = self.pending.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, version = first.split(" ")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        length = int(headers.get("content-length", 0))
        pieces, have = [self.pending], len(self.pending)
        while have < length:  # not by read_more: that is quadratic in large bodies
            data = await self.reader.read(1 << 20)
            if not data:
                raise Peer
            pieces.append(data)
            have += len(data)
        data = b"".join(pieces)
        body, self.pending = data[:length], data[length:]
        return {"method": method, "path": path, "version": version, "headers": headers,
                "body": body.decode("utf-8", "replace")}

    def read_options(self, body):
        prompt = body.get("prompt", body.get("input", ""))
        if isinstance(body.get("messages"), list) and body["messages"]:
            prompt = body["messages"][-1].get("content", "")
        self.options = {**DEFAULTS, **self.server.options}
        words = prompt.partition("@")[2].split() if isinstance(prompt, str) else []
        self.options.update(word.split("=", 1) for word in words if "=" in word)
        unknown = set(self.options) - set(DEFAULTS)
        if unknown:
            raise ValueError(f"no such option of the double: {unknown}")
        return prompt

    # One request.

    def refusal(self, request, body):
        """What this flavor has against a request: (status, message), or None."""
        headers, mlx = request["headers"], self.server.flavor == "mlx"
        if "chunked" in headers.get("transfer-encoding", ""):
            return 411, "Content-Length required"
        if self.server.key and headers.get("authorization") != f"Bearer {self.server.key}":
            return 401, "invalid api key"
        known = ("/v1/chat/completions", "/chat/completions", "/v1/completions")
        if request["path"] not in known + (() if mlx else ("/v1/embeddings",)):
            return 404, "Not Found"
        if mlx and body.get("model"):
            return 404, f"cannot load {body['model']}"
        return None

    async def answer(self, request):
        if request["method"] == "GET":
            data = {"status": "ok"} if request["path"] == "/health" else {"object": "list", "data": []}
            self.options = dict(DEFAULTS)
            await self.whole(200, "application/json", json.dumps(data).encode())
            return
        if "expect" in request["headers"]:
            await asyncio.Event().wait()
        try:
            body = json.loads(request["body"])
        except ValueError:
            body = {}
            await self.refuse(400, "not JSON")
            return
        prompt = self.read_options(body)
        mlx = self.server.flavor == "mlx"
        if mlx and not isinstance(body.get("max_tokens", 1), int):
            raise Ended("cut")  # the real one closes without a byte
        refusal = self.refusal(request, body)
        await self.pause("first_ms")
        if self.options["replay"]:
            with open(self.options["replay"], "rb") as file:
                await self.raw(file.read())
            raise Ended("cut")
        if self.options["garbage"]:
            await self.garbage(self.options["garbage"])
        if refusal or self.number_of("status") != 200:
            await self.refuse(*(refusal or (self.number_of("status"), "as was asked for")))
        elif request["path"] == "/v1/embeddings":
            await self.embed(prompt)
        else:
            await self.stream(request, body, prompt)

    async def embed(self, prompt):
        data = {"object": "list", "model": "double", "usage": {"prompt_tokens": 3, "total_tokens": 3},
                "data": [{"object": "embedding", "index": 0, "embedding": embedding(prompt)}]}
        await self.whole(200, "application/json", json.dumps(data).encode())

    def choice(self, chat, content, first=False, finish=None, reasoning=False):
        if not chat:
            return {"index": 0, "text": content, "finish_reason": finish}
        key = "content"
        if reasoning:
            key = "reasoning" if self.server.flavor in ("mlx", "ollama") else "reasoning_content"
        delta = {key: content} if content else {}
        if self.server.flavor == "mlx" or first:
            delta["role"] = "assistant"
        return {"index": 0, "delta": delta, "finish_reason": finish}

    async def stream(self, request, body, prompt):
        options, chat = self.options, "chat" in request["path"]
        framing = options["framing"] or ("eof" if self.server.flavor == "mlx" else "chunked")
        # The real mlx_lm.server forgets [DONE] for stream_options without include_usage.
        wishes = body.get("stream_options")
        done = options["done"] == "1" and not (self.server.flavor == "mlx" and wishes == {})
        asked = max(self.number_of("tokens"), 0)
        count = min(asked, body.get("max_tokens", asked))
        finish = "length" if count < asked else options["finish"]
        pieces = [SPECIAL_TEXT[options["text"]]] if options["text"] else None
        reasoning = self.number_of("reasoning")
        self.chunked, self.keep = framing == "chunked", framing != "eof"
        await self.head(200, "text/event-stream")
        await self.pause("prefill_ms")
        for number in range(self.number_of("comments")):
            await self.body(b": keepalive %d/%d\n\n" % (number, self.number_of("comments")))
            await self.pause("comment_ms")
        for number in range(reasoning):
            await self.chunk(self.choice(chat, f"r{number} ", number == 0, reasoning=True))
            await self.pause("gap_ms")
        for number in range(count if pieces is None else len(pieces)):
            if options["stream_error"] == str(number):
                await self.event(self.error_object(500, "generation failed"))
                await self.event("[DONE]")
                break
            text = pieces[number] if pieces else token_text(number, self.number_of("size"))
            if number == 0 and options["echo"]:
                text = options["echo"] + " " + text
            await self.chunk(self.choice(chat, text, number == 0))
            await self.pause("gap_ms")
        else:
            if finish != "none":
                await self.chunk(self.choice(chat, "", finish=finish))
            if (wishes or {}).get("include_usage"):
                await self.event({"choices": [], "usage": {
                    "prompt_tokens": len(prompt.split()), "completion_tokens": count + reasoning}})
            if done:
                await self.event("[DONE]")
        if self.chunked:
            await self.raw(b"0\r\n\r\n")

    async def chunk(self, choice):
        await self.event({"id": "x", "object": "chunk", "model": "double", "choices": [choice]})

    async def watched_answer(self, request):
        """Answers, but stops when the other side closes meanwhile. Returns how it ended."""
        self.sent, self.chunked, self.keep = 0, False, False
        server = self.server
        server.answering += 1
        server.answering_max = max(server.answering_max, server.answering)
        answer = asyncio.ensure_future(self.answer(request))
        watch = asyncio.ensure_future(self.read_more())
        try:
            await asyncio.wait((answer, watch), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done() and watch.exception() is None:
                self.log("early_bytes", bytes=len(self.pending))
                await asyncio.wait((answer,))
            if not answer.done():
                raise Peer
            answer.result()
            return "whole"
        except Ended as ended:
            return str(ended)
        except (Peer, OSError):
            return "peer"
        finally:
            server.answering -= 1
            for task in (answer, watch):
                task.cancel()
            await asyncio.gather(answer, watch, return_exceptions=True)

    async def serve(self):
        keep_ms = KEEP_MS[self.server.flavor]
        while True:
            wait = keep_ms / 1000 if self.server.served.get(self.number) else None
            request = await asyncio.wait_for(self.request(), wait)
            self.server.requests += 1
            self.server.served[self.number] = True
            self.log("request", **request)
            how = await self.watched_answer(request)
            hung = how == "peer" and self.options["hang"] != ""
            self.log("end", how="hung" if hung else how, bytes=self.sent)
            if how != "whole" or not self.keep or "close" in request["headers"].get("connection", ""):
                return
            keep_ms = int(self.options["keep_ms"] or KEEP_MS[self.server.flavor])


class Double:
    def __init__(self, arguments):
        self.flavor, self.key = arguments.flavor, arguments.key
        self.options = dict(pair.split("=", 1) for pair in arguments.set)
        self.file = open(arguments.log, "a", buffering=1, encoding="utf-8") if arguments.log else None
        self.connections = self.connections_ever = self.requests = self.answering = self.answering_max = 0
        self.served, self.port, self.listener, self.tls = {}, arguments.port, None, None
        if arguments.tls:
            self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.tls.load_cert_chain(*arguments.tls)

    def log(self, **fields):
        if self.file:
            self.file.write(json.dumps({"ns": time.monotonic_ns(), **fields}) + "\n")

    async def connected(self, reader, writer):
        self.connections += 1
        self.connections_ever += 1
        connection = Connection(self, reader, writer)
        connection.log("open")
        try:
            await connection.serve()
        except (Peer, OSError, asyncio.TimeoutError):
            pass
        finally:
            self.connections -= 1
            self.served.pop(connection.number, None)
            connection.log("closed")
            writer.close()

    async def listen(self):
        self.listener = await asyncio.start_server(self.connected, "127.0.0.1", self.port, ssl=self.tls, backlog=4096)
        self.port = self.listener.sockets[0].getsockname()[1]

    async def command(self, words):
        if "set" in words:
            self.options = words["set"]
        if words.get("listen") is False and self.listener:
            self.listener.close()
            self.listener = None
        if words.get("listen") is True and not self.listener:
            await self.listen()
        return {"connections": self.connections, "requests": self.requests, "answering": self.answering,
                "answering_max": self.answering_max}

    async def controlled(self, reader, writer):
        while line := await reader.readline():
            writer.write(json.dumps(await self.command(json.loads(line))).encode() + b"\n")
            await writer.drain()
        writer.close()

    async def run(self, control_port):
        await self.listen()
        control = await asyncio.start_server(self.controlled, "127.0.0.1", control_port)
        print(json.dumps({"port": self.port, "control": control.sockets[0].getsockname()[1]}), flush=True)
        await asyncio.Event().wait()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--flavor", choices=sorted(KEEP_MS), default="vllm")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--control", type=int, default=0)
    parser.add_argument("--log")
    parser.add_argument("--key")
    parser.add_argument("--tls", nargs=2)
    parser.add_argument("--set", nargs="*", default=[])
    arguments = parser.parse_args()
    try:
        asyncio.run(Double(arguments).run(arguments.control))
    except KeyboardInterrupt:
        sys.exit(0)


if __name__ == "__main__":
    main()
