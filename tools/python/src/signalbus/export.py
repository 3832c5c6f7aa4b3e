"""Writes a capture as Arrow IPC, Parquet or MCAP: `python3 -m signalbus.export --format FORMAT CAPTURE [OUTPUT]`.

Arrow and Parquet: a file for each stream, the columns of signalbus.frames, META as JSON under "signal-bus" in the
metadata of the schema. MCAP: one file, a channel for each stream, messages as JSON with a JSON schema, which viewers
plot without a plug-in; log time is UTC, `sequence` the low 32 bits of the position, META a metadata record of the
stream's name. An output appears under its name when it is complete.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import heapq
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np

from .capture import Block, Capture, Stream, open_capture
from .errors import CaptureError, DamageError, MissingLibraryError, SignalBusError
from .frames import arrow_table, block_columns, import_arrow, is_text, no_columns
from .layout import Array, RecordType

OK, FAILED, USAGE, GAPS, CORRUPT = range(5)
"""Exit statuses, those of bus-replay: done; failed; bad arguments; positions are missing; damage was left out."""

ROWS = 1 << 17  # in a row group of Parquet, a record batch of Arrow


@dataclass
class Export:
    """What is exported, and what came of it."""

    capture: Capture
    start: str | None = None
    stop: str | None = None
    prices: str = "scaled"
    symbols: frozenset[str] = frozenset()
    show_progress: bool = False
    missing: int = 0
    damage: list[DamageError] = field(default_factory=list)
    files: list[dict[str, Any]] = field(default_factory=list)
    done: int = 0
    total: int = 0

    def parts(self, stream: Stream) -> Iterator[tuple[Block, dict[str, Array]]]:
        """The blocks of a stream with their columns, those of the wanted symbols; counts what is missing between."""
        expected: tuple[int, int] | None = None
        for block in stream.blocks(self.start, self.stop, self.damage.append):
            positions, instance = block.positions, block.meta.instance
            span = (int(positions[-1]) - int(positions[0]) + 1) % (1 << 64)
            self.missing += span - len(positions)
            if expected and expected[0] == instance:
                self.missing += (int(positions[0]) - expected[1]) % (1 << 64)
            expected = instance, (int(positions[-1]) + 1) % (1 << 64)
            columns = block_columns(stream, block, self.prices)
            self._report(len(positions))
            if self.symbols and "symbol" in columns:
                wanted = np.isin(columns["symbol"].astype(str), list(self.symbols))
                columns = {name: column[wanted] for name, column in columns.items()}
            if len(columns["position"]):
                yield block, columns

    def _report(self, records: int) -> None:
        self.done += records
        if self.show_progress:
            percent = 100 * self.done // max(self.total, 1)
            print(f"\r{percent:3} % of {self.total} records", end="", file=sys.stderr, flush=True)

    def batches(self, stream: Stream) -> Iterator[dict[str, Array]]:
        """The columns of a stream in pieces of some ROWS records; one without a record when there are none."""
        waiting: list[dict[str, Array]] = []
        rows, yielded = 0, False
        for _, columns in self.parts(stream):
            waiting.append(columns)
            rows += len(columns["position"])
            if rows >= ROWS:
                yield _join(waiting)
                waiting, rows, yielded = [], 0, True
        if waiting or not yielded:
            yield _join(waiting or [no_columns(stream, self.prices)])


def _join(parts: list[dict[str, Array]]) -> dict[str, Array]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@contextlib.contextmanager
def _completed(path: str) -> Iterator[str]:
    """A name to write to, which becomes `path` when all went well and vanishes otherwise."""
    partial = f"{path}.partial"
    if os.path.lexists(path):
        raise CaptureError(path, "is there already: name another output, or remove it")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)
        raise


def _table_writer(kind: str, path: str, schema: Any) -> Any:
    pa = import_arrow(f"--format {kind}")
    if kind == "parquet":
        import pyarrow.parquet

        return pyarrow.parquet.ParquetWriter(path, schema, compression="zstd", store_schema=True)
    return pa.ipc.new_file(path, schema)


def export_tables(export: Export, streams: list[Stream], kind: str, directory: str) -> None:
    """A file for each stream in `directory`, which is made when it is missing; `kind` is "arrow" or "parquet"."""
    import_arrow(f"--format {kind}")
    os.makedirs(directory, exist_ok=True)
    for stream in streams:
        path, rows = os.path.join(directory, f"{stream.name}.{kind}"), 0
        with _completed(path) as partial, contextlib.ExitStack() as stack:
            writer = None
            for columns in export.batches(stream):
                table = arrow_table(columns, stream.meta, dictionary=False)
                writer = writer or stack.enter_context(_table_writer(kind, partial, table.schema))
                writer.write_table(table)
                rows += len(columns["position"])
        export.files.append({"path": path, "stream": stream.name, "records": rows})


def _json_column(column: Array) -> list[Any]:
    """As JSON has it: no NaN, and bytes in base64."""
    if column.dtype == object:
        return [value if isinstance(value, str) else base64.b64encode(value).decode() for value in column]
    if column.dtype.kind == "f":
        if column.dtype == np.float32:
            column = np.array([float(str(value)) for value in column])  # the shortest digits, not those of the double
        return [value if np.isfinite(value) else None for value in column.tolist()]
    values: list[Any] = column.tolist()
    return values


def _json_schema(stream: Stream, columns: dict[str, Array]) -> bytes:
    properties: dict[str, Any] = {}
    for name, column in columns.items():
        if name in ("bytes", "text"):
            properties[name] = {"type": "string", "contentEncoding": "base64"}
        elif is_text(name):
            properties[name] = {"type": "string"}
        elif column.dtype.kind == "f":
            properties[name] = {"type": ["number", "null"]}
        elif name != "time":
            properties[name] = {"type": "integer"}
    return json.dumps({"title": stream.record_type.name, "type": "object", "properties": properties}).encode()


def _messages(export: Export, stream: Stream) -> Iterator[tuple[int, int, str, int, bytes]]:
    """(time on the bus clock, type's order, stream, log time, JSON), in the order of the stream."""
    kind = {RecordType.FEATURE: 0, RecordType.SIGNAL: 1}.get(stream.record_type, 2)
    for block, columns in export.parts(stream):
        names = [name for name in columns if name != "time"]
        rows = zip(*(_json_column(columns[name]) for name in names), strict=True)
        offset = block.meta.realtime_offset_ns
        for log_time, row in zip(columns["time"].view(np.int64).tolist(), rows, strict=True):
            yield (
                log_time - offset,
                kind,
                stream.name,
                max(log_time, 0),
                json.dumps(dict(zip(names, row, strict=True))).encode(),
            )


def export_mcap(export: Export, streams: list[Stream], path: str) -> None:
    """One MCAP file with a channel for each stream, in the order of the bus: by time, features before signals."""
    try:
        from mcap.writer import CompressionType, Writer
    except ImportError:
        raise MissingLibraryError("mcap", "--format mcap", "mcap") from None
    count = 0
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with _completed(path) as partial, open(partial, "wb") as file:
        writer = Writer(file, compression=CompressionType.ZSTD)
        writer.start(profile="", library="signal-bus")
        channels = {}
        for stream in streams:
            title = f"signalbus.{stream.record_type.name.lower()}"
            schema = writer.register_schema(
                title, "jsonschema", _json_schema(stream, no_columns(stream, export.prices))
            )
            channels[stream.name] = writer.register_channel(stream.name, "json", schema)
            writer.add_metadata(stream.name, {"meta": json.dumps(stream.meta)})
        sources = [_messages(export, stream) for stream in streams]
        for _, _, name, log_time, data in heapq.merge(*sources, key=lambda message: message[:3]):
            sequence = json.loads(data)["position"] & 0xFFFFFFFF
            writer.add_message(channels[name], log_time, data, log_time, sequence)
            count += 1
        writer.finish()  # type: ignore[no-untyped-call]
    export.files.append({"path": path, "records": count})


def choose_streams(capture: Capture, names: list[str]) -> list[Stream]:
    """The streams that are meant: by name, or by the member or ring that there is once. Raises SignalBusError."""
    if not names:
        return list(capture.values())
    chosen = []
    for name in names:
        found = [s for s in capture.values() if s.name == name]
        found = found or [s for s in capture.values() if name in (s.member, s.ring)]
        if len(found) != 1:
            what = "more than one stream" if found else "no stream"
            raise SignalBusError(f"{capture.path}: {what} '{name}'; there are {', '.join(capture)}")
        chosen += [stream for stream in found if stream not in chosen]
    return chosen


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: {message}; see --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="signalbus.export",
        description="Writes a capture for other programs.",
        epilog="Exit status: 0 ok, 1 failed, 2 usage, 3 positions are missing, 4 damage was found and named; what is "
        "whole was written.",
    )
    parser.add_argument("capture", metavar="CAPTURE", help="directory of a capture, or a segment of one")
    parser.add_argument("place", metavar="OUTPUT", nargs="?", help="as --output")
    parser.add_argument("--format", required=True, choices=("arrow", "parquet", "mcap"))
    parser.add_argument(
        "--output", help="arrow, parquet: a directory; mcap: a file *.mcap, or a directory (default: CAPTURE-FORMAT)"
    )
    parser.add_argument("--stream", action="append", default=[], help="member.ring, or one of both; repeatable")
    parser.add_argument("--symbol", action="append", default=[], help="of features and signals only those; repeatable")
    point = "seq:N, +5s after the begin, -5s before the end, 2026-11-24T18:00:00.5Z, or ns of the bus clock"
    parser.add_argument("--from", dest="start", metavar="POINT", help=f"records from there on: {point}")
    parser.add_argument("--until", dest="stop", metavar="POINT", help="records before it")
    parser.add_argument("--raw", action="store_true", help="the integers of the bus, not scaled by exponents")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")
    return parser


def _run(options: argparse.Namespace) -> int:
    capture = open_capture(options.capture)
    streams = choose_streams(capture, options.stream)
    export = Export(
        capture,
        options.start,
        options.stop,
        "raw" if options.raw else "scaled",
        frozenset(options.symbol),
        sys.stderr.isatty(),
        total=sum(map(len, streams)),
    )
    output = options.output or options.place or f"{options.capture.rstrip('/')}-{options.format}"
    if options.format == "mcap":
        export_mcap(export, streams, output if output.endswith(".mcap") else os.path.join(output, "capture.mcap"))
    else:
        export_tables(export, streams, options.format, output)
    if export.show_progress:
        print(file=sys.stderr)
    for error in export.damage:
        print(f"signalbus.export: left out: {error}", file=sys.stderr)
    if export.missing:
        print(f"signalbus.export: {export.missing} positions are missing", file=sys.stderr)
    if options.json:
        print(json.dumps({"files": export.files, "missing": export.missing, "damage": [str(e) for e in export.damage]}))
    return CORRUPT if export.damage else GAPS if export.missing else OK


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    for index in range(len(words) - 1, 0, -1):
        if words[index - 1] in ("--from", "--until"):  # "-5s" would be taken for an option
            words[index - 1 : index + 1] = [f"{words[index - 1]}={words[index]}"]
    options = _parser().parse_args(words)
    if options.output and options.place:
        print("signalbus.export: two outputs; see --help", file=sys.stderr)
        return USAGE
    try:
        return _run(options)
    except DamageError as error:
        print(f"signalbus.export: {error}; bus-replay recover saves what is whole", file=sys.stderr)
        return CORRUPT
    except (SignalBusError, OSError) as error:
        print(f"signalbus.export: {error}", file=sys.stderr)
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
