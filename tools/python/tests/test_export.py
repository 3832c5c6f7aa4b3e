"""Round trips with the libraries' own readers."""

import json

import numpy as np
import pytest
from writer import Writer, features, save

import signalbus
from signalbus import export


def run(*arguments):
    return export.main([str(argument) for argument in arguments])


def same(column, wanted):
    if wanted.dtype == object:
        assert column == wanted.tolist()
    elif wanted.dtype.kind == "M":
        assert [value.value for value in column] == wanted.astype(np.int64).tolist()
    else:
        np.testing.assert_array_equal(np.array(column, wanted.dtype), wanted)


@pytest.mark.parametrize("kind", ["arrow", "parquet"])
@pytest.mark.parametrize("raw", [False, True])
def test_tables(capture, tmp_path, kind, raw, monkeypatch):
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pandas")
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(export, "ROWS", 50)  # several batches
    directory, _ = capture
    output = tmp_path / "out"
    assert run("--format", kind, directory, output, *(["--raw"] if raw else [])) == export.OK
    for name, stream in signalbus.open_capture(directory).items():
        path = output / f"{name}.{kind}"
        if kind == "parquet":
            table = parquet.read_table(path)
        else:
            with pyarrow.ipc.open_file(path) as reader:
                assert reader.num_record_batches > 1
                table = reader.read_all()
        assert json.loads(table.schema.metadata[b"signal-bus"]) == dict(stream.meta)
        columns = stream.columns(prices="raw" if raw else "scaled")
        assert table.column_names == list(columns)
        for column, wanted in columns.items():
            same(table[column].to_pylist(), wanted)
    assert sorted(path.name for path in output.iterdir()) == [f"feed.features.{kind}", f"infer.signals.{kind}"]


def read_mcap(path):
    reader = pytest.importorskip("mcap.reader")
    with open(path, "rb") as file:
        made = reader.make_reader(file)
        messages = list(made.iter_messages(log_time_order=False))
        return messages, {record.name: record.metadata for record in made.iter_metadata()}


def test_mcap(capture, tmp_path):
    pytest.importorskip("mcap")
    directory, _ = capture
    assert run("--format", "mcap", directory, "--output", tmp_path / "x.mcap") == export.OK
    messages, metadata = read_mcap(tmp_path / "x.mcap")
    opened = signalbus.open_capture(directory)
    assert [m.log_time for _, _, m in messages] == sorted(m.log_time for _, _, m in messages)
    seen = {}
    for schema, channel, message in messages:
        assert schema.encoding == "jsonschema" and channel.message_encoding == "json"
        row = json.loads(message.data)
        assert row.keys() == json.loads(schema.data)["properties"].keys()
        seen.setdefault(channel.topic, []).append((message, row))
        if channel.topic == "infer.signals":  # never before its feature
            assert len(seen["feed.features"]) > row["feature_position"]
    for name, stream in opened.items():
        columns = stream.columns()
        assert json.loads(metadata[name]["meta"]) == dict(stream.meta)
        assert [message.log_time for message, _ in seen[name]] == columns["time"].astype(np.int64).tolist()
        assert [message.sequence for message, _ in seen[name]] == columns["position"].tolist()
        for column, wanted in columns.items():
            if column != "time":
                values = [row[column] for _, row in seen[name]]
                same([np.nan if value is None else value for value in values], wanted)


def test_selection(capture, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    directory, _ = capture
    opened = signalbus.open_capture(directory)["feed.features"]
    common = ("--format", "parquet", directory)
    assert run(*common, tmp_path / "a", "--stream", "feed", "--from", "+10us", "--until", "+20us") == export.OK
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["feed.features.parquet"]
    table = parquet.read_table(tmp_path / "a" / "feed.features.parquet")
    assert table["position"].to_pylist() == list(range(10, 20))
    assert run(*common, tmp_path / "b", "--symbol", "ETHUSDT", "--stream", "feed.features") == export.OK
    table = parquet.read_table(tmp_path / "b" / "feed.features.parquet")
    assert set(table["symbol"].to_pylist()) == {"ETHUSDT"} and len(table) == len(opened) // 2
    assert run(*common, tmp_path / "c", "--stream", "features", "--from", "seq:7", "--until", "seq:9") == export.OK
    assert parquet.read_table(tmp_path / "c" / "feed.features.parquet")["position"].to_pylist() == [7, 8]
    assert run(*common, tmp_path / "d", "--stream", "features", "--from", "-3us") == export.OK
    last = signalbus.open_capture(directory).last_time_ns
    wanted = opened.records(last - 3000)["stamp"] - 1
    assert parquet.read_table(tmp_path / "d" / "feed.features.parquet")["position"].to_pylist() == wanted.tolist()


def test_gaps_and_damage_have_exit_codes(tmp_path, capsys):
    parquet = pytest.importorskip("pyarrow.parquet")
    writer = Writer("feed", "features", 1, 128)
    records = features(93)
    for start in range(0, 93, 31):
        writer.add(records[start : start + 31])
    source = tmp_path / "capture"
    source.mkdir()
    path = save(source, writer)
    data = bytearray(path.read_bytes())
    data[4096 * 3 + 200] ^= 1
    path.write_bytes(data)
    assert run("--format", "parquet", source, tmp_path / "a", "--json") == export.CORRUPT
    out, err = capsys.readouterr()
    assert f"left out: {path}, block 2 at byte 12288: CRC-32C" in err and "31 positions are missing" in err
    assert json.loads(out)["files"][0]["records"] == 62 and json.loads(out)["missing"] == 31
    table = parquet.read_table(tmp_path / "a" / "feed.features.parquet")
    assert table["position"].to_pylist() == [*range(31), *range(62, 93)]
    writer = Writer("feed", "features", 1, 128)
    writer.add(records[[0, 1, 5]])
    save(source, writer)
    assert run("--format", "arrow", source, tmp_path / "b") == export.GAPS
    path.write_bytes(path.read_bytes()[:5000])
    assert run("--format", "arrow", source, tmp_path / "c") == export.CORRUPT
    assert "bus-replay recover" in capsys.readouterr().err and not (tmp_path / "c").exists()


def test_refusals(capture, tmp_path, capsys):
    pytest.importorskip("pyarrow")
    directory, _ = capture
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "feed.features.arrow").write_text("mine")
    for status, words, *arguments in (
        (1, "is there already", "--format", "arrow", directory, tmp_path / "out"),
        (1, "no stream 'x'", "--format", "arrow", directory, "--stream", "x"),
        (1, "is no time", "--format", "arrow", directory, tmp_path / "o2", "--from", "noon"),
        (1, "is no position", "--format", "arrow", directory, tmp_path / "o3", "--from", "seq:x"),
        (1, "No such file", "--format", "arrow", tmp_path / "none"),
        (2, "two outputs", "--format", "arrow", directory, "a", "--output", "b"),
    ):
        assert run(*arguments) == status
        assert words in capsys.readouterr().err
    for arguments in (["--format", "csv", directory], [directory], ["--format", "arrow"]):
        with pytest.raises(SystemExit) as caught:
            run(*arguments)
        assert caught.value.code == 2
    assert (tmp_path / "out" / "feed.features.arrow").read_text() == "mine"
    assert not list(tmp_path.rglob("*.partial"))


def test_what_is_not_installed_is_named(capture, monkeypatch, capsys):
    directory, _ = capture
    for library, kind in (("pyarrow", "arrow"), ("mcap.writer", "mcap")):
        monkeypatch.setitem(__import__("sys").modules, library, None)
        assert run("--format", kind, directory) == 1
        assert "pip install 'signalbus[" in capsys.readouterr().err
