import json

import numpy as np
import pytest
from writer import OFFSET_NS, SYMBOLS, Writer, features, save, signals

import signalbus
from signalbus import layout


def test_columns_of_features(capture):
    directory, records = capture
    stream = signalbus.open_capture(directory)["feed.features"]
    wanted = records["feed.features"]
    columns = stream.columns()
    scale = np.array([10.0 ** -row["price_exponent"] for row in SYMBOLS])[wanted["symbol"]]
    assert (columns["bid_price"] == wanted["bid_price"] / scale).all()
    scale = np.array([10.0 ** -row["size_exponent"] for row in SYMBOLS])[wanted["symbol"]]
    assert (columns["ask_size"] == wanted["ask_size"] / scale).all()
    assert columns["symbol"].tolist() == [SYMBOLS[i]["name"] for i in wanted["symbol"]]
    assert (columns["time"].astype(np.int64) == wanted["timestamp_ns"].astype(np.int64) + OFFSET_NS).all()
    assert np.isnan(columns["exchange_delay_us"]).sum() == (wanted["exchange_delay_us"] == -(2**31)).sum() > 0
    assert (columns["book_imbalance"] == wanted["book_imbalance"] / 2.0**30).all()
    for index, name in enumerate(signalbus.FEATURE_INPUTS):
        assert (columns[name] == wanted["x"][:, index]).all()
    raw = stream.columns(prices="raw")
    for name in ("bid_price", "ask_price", "bid_size", "ask_size", "exchange_delay_us", "book_imbalance", "update"):
        assert raw[name].dtype == wanted[name].dtype and (raw[name] == wanted[name]).all()
    assert (raw["symbol_index"] == wanted["symbol"]).all()
    with pytest.raises(signalbus.SignalBusError, match="use 'scaled' or 'raw'"):
        stream.columns(prices="cooked")


def test_signals_take_the_table_of_their_source(tmp_path):
    inputs = [{"member": name, "ring": "features"} for name in ("spot", "usdm", "lost")]
    tables = {"spot": [{"name": "A", "price_exponent": -1, "size_exponent": 0}]}
    writer = Writer("infer", "signals", 2, 64, inputs=inputs, symbol_tables=tables)
    records = signals(4)
    records["source"], records["symbol"] = [0, 1, 1, 0], 0
    writer.add(records)
    save(tmp_path, writer)
    feed = Writer("usdm", "features", 1, 128, symbols=[{"name": "B", "price_exponent": -3, "size_exponent": 0}])
    feed.add(features(3))
    save(tmp_path, feed)
    columns = signalbus.open_capture(tmp_path)["infer.signals"].columns()
    assert columns["symbol"].tolist() == ["A", "B", "B", "A"]
    assert (columns["target_price"] == records["target_price"] / np.array([10, 1000, 1000, 10])).all()
    writer.blocks.pop()
    records["source"] = [0, 1, 2, 0]
    writer.add(records)
    save(tmp_path, writer)
    stream = signalbus.open_capture(tmp_path)["infer.signals"]
    with pytest.raises(signalbus.SignalBusError, match="symbol 0 of source 2 are not known; use prices='raw'"):
        stream.columns()
    assert stream.columns(prices="raw")["symbol"].tolist() == ["A", "B", "#0", "A"]


def test_symbols_that_came_later(tmp_path):
    writer = Writer("feed", "features", 1, 128, symbols=SYMBOLS[:1])
    writer.add(features(3))
    save(tmp_path, writer)
    other = Writer("feed", "features", 1, 128)
    other.end = 3
    other.add(features(3, 3))
    save(tmp_path, other, 1)
    stream = signalbus.open_capture(tmp_path)["feed.features"]
    assert stream.columns()["symbol"].tolist() == ["BTCUSDT", "ETHUSDT"] * 3
    replaced = Writer("feed", "features", 1, 128, instance="7", symbols=SYMBOLS)
    save(tmp_path, replaced, 1)
    with pytest.raises(signalbus.SignalBusError, match="symbol 1 of source 0 are not known"):
        signalbus.open_capture(tmp_path)["feed.features"].columns()


def test_a_single_source_without_an_own_table(tmp_path):
    writer = Writer("infer", "signals", 2, 64, symbols=[])
    writer.add(signals(4))
    save(tmp_path, writer)
    feed = Writer("feed", "features", 1, 128)
    feed.add(features(3))
    save(tmp_path, feed)
    stream = signalbus.open_capture(tmp_path)["infer.signals"]
    assert stream.symbols == ["BTCUSDT", "ETHUSDT"]
    assert stream.columns()["symbol"].tolist() == ["BTCUSDT", "ETHUSDT"] * 2


def test_pandas(capture):
    pandas = pytest.importorskip("pandas")
    directory, records = capture
    opened = signalbus.open_capture(directory)
    for name in opened:
        for prices in ("scaled", "raw"):
            frame, columns = opened[name].to_pandas(prices=prices), opened[name].columns(prices=prices)
            assert list(frame.columns) == list(columns) and len(frame) == len(records[name])
            assert frame["time"].dt.tz is not None and isinstance(frame["symbol"].dtype, pandas.CategoricalDtype)
            for column in columns:
                if column not in ("time", "symbol"):
                    np.testing.assert_array_equal(frame[column].to_numpy(), columns[column])
            assert frame["symbol"].tolist() == columns["symbol"].tolist()
            assert (frame["time"].dt.tz_localize(None).to_numpy() == columns["time"]).all()
    assert len(opened["feed.features"].to_pandas("+10us", "+20us")) == 10
    assert len(opened["feed.features"].to_pandas("seq:50", "seq:60")) == 10


def test_polars(capture):
    polars = pytest.importorskip("polars")
    directory, _ = capture
    opened = signalbus.open_capture(directory)
    for name in opened:
        frame, columns = opened[name].to_polars(), opened[name].columns()
        assert frame.columns == list(columns) and frame.schema["time"] == polars.Datetime("ns", "UTC")
        for column in columns:
            if column == "symbol":
                assert frame[column].to_list() == columns[column].tolist()
            elif column != "time":
                np.testing.assert_array_equal(frame[column].to_numpy(), columns[column])
        assert (frame["time"].dt.replace_time_zone(None).to_numpy() == columns["time"]).all()


def test_arrow(capture):
    pytest.importorskip("pyarrow")
    directory, _ = capture
    stream = signalbus.open_capture(directory)["feed.features"]
    table, columns = stream.to_arrow(), stream.columns()
    assert json.loads(table.schema.metadata[b"signal-bus"]) == dict(stream.meta)
    np.testing.assert_array_equal(table["bid_price"].to_numpy(), columns["bid_price"])
    assert table["symbol"].to_pylist() == columns["symbol"].tolist()


def test_raw_records_and_nothing(tmp_path):
    writer = Writer("bridge", "requests", 0, 128)
    records = np.zeros(5, layout.record_dtype(0, 128))
    records["bytes"], records["stamp"] = b"\0text\0" * 10, np.arange(5) + 1
    writer.add(records, times=(10, 50))
    save(tmp_path, writer)
    writer = Writer("feed", "features", 1, 128)
    save(tmp_path, writer)
    opened = signalbus.open_capture(tmp_path)
    columns = opened["bridge.requests"].columns()
    assert columns["bytes"][0] == (b"\0text\0" * 10).ljust(120, b"\0") and columns["time_ns"].tolist()[-1] == 50
    for library, method in (("pandas", "to_pandas"), ("polars", "to_polars"), ("pyarrow", "to_arrow")):
        pytest.importorskip(library)
        assert len(getattr(opened["bridge.requests"], method)()) == 5
        assert len(getattr(opened["feed.features"], method)()) == 0


def test_what_is_not_installed_is_named(capture, monkeypatch):
    directory, _ = capture
    stream = signalbus.open_capture(directory)["feed.features"]
    for library, method in (("pandas", "to_pandas"), ("polars", "to_polars"), ("pyarrow", "to_arrow")):
        monkeypatch.setitem(__import__("sys").modules, library, None)
        with pytest.raises(signalbus.MissingLibraryError, match=r"pip install 'signalbus\["):
            getattr(stream, method)()
