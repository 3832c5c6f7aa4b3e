# %% [markdown]
# # A first look at a capture
#
# `python3 first_look.py CAPTURE [PICTURE.png]`, or cell by cell in an editor that knows `# %%`.
# What came how fast, how wide the market was, and whether the signals said anything about the next move of the mid.

# %%
import sys

import numpy as np

import signalbus

path = sys.argv[1] if len(sys.argv) > 1 else "capture"
picture = sys.argv[2] if len(sys.argv) > 2 else "first_look.png"
capture = signalbus.open_capture(path)
for name, stream in capture.items():
    seconds = ((stream.last_time_ns or 0) - (stream.first_time_ns or 0)) / 1e9
    rate = len(stream) / seconds if seconds else float("nan")
    missing = sum(int(gap["last"] - gap["first"]) + 1 for gap in stream.gaps())
    print(
        f"{name}: {len(stream)} {stream.record_type.name} records in {seconds:.3f} s, {rate:.0f}/s, {missing} missing"
    )

# %% [markdown]
# ## The market
#
# Columns are plain NumPy arrays here; `to_pandas()` and `to_polars()` give the same as frames.

# %%
by_type = {stream.record_type: stream for stream in capture.values()}
if signalbus.RecordType.FEATURE not in by_type:
    sys.exit(f"{path} has no features")
features = by_type[signalbus.RecordType.FEATURE]
ticks = features.columns()
valid = (ticks["flags"] & signalbus.FeatureFlag.VALID) != 0
for symbol in np.unique(ticks["symbol"].astype(str)):
    mine = valid & (ticks["symbol"] == symbol)
    spread = ticks["ask_price"][mine] - ticks["bid_price"][mine]
    if len(spread):
        p10, p50, p90 = np.percentile(spread, (10, 50, 90))
        print(f"{symbol}: spread p10 {p10:.6g}, p50 {p50:.6g}, p90 {p90:.6g}")

# %% [markdown]
# ## Do signals know the next move?
#
# For each signal: the mid of its feature, and the first other mid of the same symbol after it. A signal carries its
# feature's position, so no clock is needed to join them.


# %%
def next_moves(ticks, valid):
    """For each feature the next change of its symbol's mid, NaN when there is none."""
    moves = np.full(len(valid), np.nan)
    mid = (ticks["bid_price"] + ticks["ask_price"]) / 2
    for symbol in np.unique(ticks["symbol"].astype(str)):
        index = np.flatnonzero(valid & (ticks["symbol"] == symbol))
        prices = mid[index]
        changes = np.flatnonzero(np.diff(prices)) + 1  # the first record with another mid
        following = np.searchsorted(changes, np.arange(len(prices)), side="right")
        known = following < len(changes)
        moves[index[known]] = prices[changes[following[known]]] - prices[known]
    return moves


moves = next_moves(ticks, valid)
if signalbus.RecordType.SIGNAL in by_type:
    signals = by_type[signalbus.RecordType.SIGNAL].columns()
    place = np.searchsorted(ticks["position"], signals["feature_position"])
    joined = place < len(moves)
    joined[joined] = ticks["position"][place[joined]] == signals["feature_position"][joined]
    for direction, word in ((-1, "sell"), (0, "flat"), (1, "buy")):
        move = moves[place[joined & (signals["direction"] == direction)]]
        move = move[np.isfinite(move)]
        if len(move):
            print(f"{word}: {len(move)} signals, next move up {np.mean(move > 0):.1%}, mean {move.mean():+.6g}")

# %% [markdown]
# ## A picture

# %%
try:
    import matplotlib.pyplot as plt
except ImportError:
    print("no picture: pip install 'signalbus[plot]'")
else:
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(10, 6), sharex=True, constrained_layout=True)
    for symbol in np.unique(ticks["symbol"].astype(str)):
        mine = valid & (ticks["symbol"] == symbol)
        if mine.any():
            mid = (ticks["bid_price"][mine] + ticks["ask_price"][mine]) / 2
            top.plot(ticks["time"][mine], mid / mid[0] - 1, drawstyle="steps-post", label=symbol)
    top.set_ylabel("mid, relative to the first")
    top.legend()
    seconds = ticks["time"].astype("datetime64[s]")
    moments, counts = np.unique(seconds, return_counts=True)
    bottom.bar(moments, counts, width=np.timedelta64(1, "s"))
    bottom.set_ylabel("features per second")
    figure.savefig(picture)
    print(f"{picture} written")
