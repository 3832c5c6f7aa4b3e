"""Records as columns, for pandas, polars and Arrow.

All types: `position`, `time` (UTC, when it happened). Features: `symbol` (name), prices and sizes,
`exchange_delay_us` (NaN without an exchange time), `book_imbalance` (-1..1), `update`, `trigger`, `flags`, and the
sixteen model inputs under their names. Signals: `symbol`, `target_price`, `score_sell`, `score_flat`, `score_buy` and
the fields of struct bus_signal. Gaps: those of struct bus_gap. Requests to language models and replies: those of
their headers, and `text`, the fragment of each record as bytes. Others: `bytes`.

With prices "raw" every number is the integer that was on the bus, and `symbol_index` stands beside the name.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from . import layout
from .errors import MissingLibraryError, SignalBusError
from .layout import Array

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow

    from .capture import Block, Stream, Time

_PRICES = ("bid_price", "ask_price", "target_price")
_SIZES = ("bid_size", "ask_size")
_ONE_Q30 = float(1 << 30)


def _symbol_names_and_scales(stream: Stream, block: Block, scaled: bool) -> tuple[Array, Array, Array]:
    """For each record its symbol's name, and what its prices and sizes are divided by."""
    records = block.records
    sources = records["source"] if "source" in (records.dtype.names or ()) else np.zeros(len(records), np.uint16)
    keys, inverse = np.unique(sources.astype(np.uint32) << np.uint32(16) | records["symbol"], return_inverse=True)
    names, divisors = [], []
    for key in keys:
        source, symbol = int(key) >> 16, int(key) & 0xFFFF
        row = stream.symbol_row(block.meta, source, symbol)
        exponents = [row.get("price_exponent"), row.get("size_exponent")]
        if scaled and not all(isinstance(value, int) and -18 <= value <= 0 for value in exponents):
            raise SignalBusError(
                f"{block.path}: exponents of symbol {symbol} of source {source} are not known; use prices='raw'"
            )
        names.append(str(row.get("name", f"#{symbol}")))
        divisors.append([10.0**-value for value in exponents] if scaled else [1.0, 1.0])  # type: ignore[operator]
    scale = np.array(divisors, np.float64).reshape(-1, 2)[inverse]
    return np.array(names, object)[inverse], scale[:, 0], scale[:, 1]


def _objects(values: list[Any]) -> Array:
    """As a column of Python objects, also when there are none."""
    return np.array([*values, None], object)[:-1]


def is_text(name: str) -> bool:
    """Whether a column of objects holds str, not bytes."""
    return name in ("symbol", "class_name", "backend")


def block_columns(stream: Stream, block: Block, prices: str) -> dict[str, Array]:
    """The columns of one block."""
    records, scaled = block.records, prices == "scaled"
    result: dict[str, Array] = {"position": block.positions, "time": block.realtime_ns.view("datetime64[ns]")}
    has_symbol = stream.record_type in (layout.RecordType.FEATURE, layout.RecordType.SIGNAL)
    if has_symbol:
        names, price_scale, size_scale = _symbol_names_and_scales(stream, block, scaled)
        result["symbol"] = names
        if not scaled:
            result["symbol_index"] = records["symbol"]
    elif stream.record_type == layout.RecordType.RAW:
        result["time_ns"] = block.times_ns
    for name in records.dtype.names or ():
        column = records[name]
        if name in ("stamp", "reserved0", "reserved1") or (name == "symbol" and has_symbol):
            continue
        if name == "x":
            result.update({label: column[:, i] for i, label in enumerate(layout.FEATURE_INPUTS)})
        elif name == "score":
            result.update({f"score_{label}": column[:, i] for i, label in enumerate(layout.SCORES)})
        elif name == "text":
            result["text"] = _objects(layout.record_texts(records))
        elif column.dtype.kind == "S":  # a name: text that another process wrote
            result[name] = _objects([value.decode(errors="replace") for value in column.tolist()])
        elif column.dtype.kind == "V":
            result["bytes"] = _objects([bytes(value) for value in column])
        elif scaled and name in _PRICES:
            result[name] = column / price_scale
        elif scaled and name in _SIZES:
            result[name] = column / size_scale
        elif scaled and name == "book_imbalance":
            result[name] = column / _ONE_Q30
        elif scaled and name == "exchange_delay_us":
            result[name] = np.where(column == layout.NO_EXCHANGE_TIME, np.nan, column.astype(np.float64))
        else:
            result[name] = column
    return result


def check_prices(prices: str) -> None:
    """Raises SignalBusError when `prices` is neither."""
    if prices not in ("scaled", "raw"):
        raise SignalBusError(f"prices '{prices}': use 'scaled' or 'raw'")


def columns(stream: Stream, start: Time | None, stop: Time | None, prices: str) -> dict[str, Array]:
    """All columns of the records of a slice of time."""
    check_prices(prices)
    parts = [block_columns(stream, block, prices) for block in stream.blocks(start, stop)]
    if not parts:
        parts = [no_columns(stream, prices)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def no_columns(stream: Stream, prices: str) -> dict[str, Array]:
    """The columns without a record."""
    from .capture import Block

    nothing = Block("", 0, np.zeros(0, stream.dtype), np.zeros(0, np.uint64), stream.meta, 0)
    return block_columns(stream, nothing, prices)


def to_pandas(stream: Stream, start: Time | None, stop: Time | None, prices: str) -> pandas.DataFrame:
    """See Stream.to_pandas."""
    try:
        import pandas as pd
    except ImportError:
        raise MissingLibraryError("pandas", "to_pandas", "pandas") from None
    data: dict[str, Any] = dict(columns(stream, start, stop, prices))
    data["time"] = pd.DatetimeIndex(data["time"]).tz_localize("UTC")
    if "symbol" in data:
        data["symbol"] = pd.Categorical(data["symbol"])
    return pd.DataFrame(data)


def to_polars(stream: Stream, start: Time | None, stop: Time | None, prices: str) -> polars.DataFrame:
    """See Stream.to_polars."""
    try:
        import polars as pl
    except ImportError:
        raise MissingLibraryError("polars", "to_polars", "polars") from None
    data = columns(stream, start, stop, prices)
    series = []
    for name, column in data.items():
        if name == "symbol":
            series.append(pl.Series(name, column.tolist(), dtype=pl.Categorical()))
        elif column.dtype == object:
            kind = pl.String() if is_text(name) else pl.Binary()
            series.append(pl.Series(name, column.tolist(), dtype=kind))
        elif name == "time":
            series.append(pl.Series(name, column).dt.replace_time_zone("UTC"))
        else:
            series.append(pl.Series(name, np.ascontiguousarray(column)))
    return pl.DataFrame(series)


def import_arrow(purpose: str) -> Any:
    """The module pyarrow, or a MissingLibraryError."""
    try:
        import pyarrow
    except ImportError:
        raise MissingLibraryError("pyarrow", purpose, "arrow") from None
    return pyarrow


def arrow_table(data: dict[str, Array], meta: dict[str, Any], dictionary: bool = True) -> pyarrow.Table:
    """Columns as an Arrow table.

    Args:
        data: The columns.
        meta: Goes into the metadata of its schema as JSON, under "signal-bus".
        dictionary: Names of symbols as a dictionary, else as plain text.
    """
    pa = import_arrow("to_arrow")
    arrays: dict[str, Any] = {}
    for name, column in data.items():
        if name == "symbol":
            text = pa.array(column, pa.string())
            arrays[name] = text.dictionary_encode() if dictionary else text
        elif column.dtype == object:
            arrays[name] = pa.array(column, pa.string() if is_text(name) else pa.binary())
        elif name == "time":
            arrays[name] = pa.array(column.view(np.int64)).cast(pa.timestamp("ns", "UTC"))
        else:
            arrays[name] = pa.array(np.ascontiguousarray(column))
    return pa.table(arrays).replace_schema_metadata({"signal-bus": json.dumps(meta)})


def to_arrow(stream: Stream, start: Time | None, stop: Time | None, prices: str) -> pyarrow.Table:
    """See Stream.to_arrow."""
    return arrow_table(columns(stream, start, stop, prices), stream.meta)
