#!/usr/bin/env python3
"""Trains the signal model 16-32-16-3 on recorded features and writes a model file.

Input: files of struct bus_feature records (128 bytes each, little-endian, see shm/record.h), as
bus-feed --output FILE writes them. Output: the model file that kernels/model.h describes.

A sample is one usable record; its label is the move of the mid price over the horizon: sell (0)
below -dead zone, buy (2) above +dead zone, else flat (1). Records that are not VALID, that carry
RESYNC, STALE or CROSSED, or that lack a side of the book are skipped. The first 70 % of each file's
time trains (its last 15 % chooses the epoch), the last 30 % is only used for the report; samples
whose horizon crosses a boundary are dropped.

Needs Python 3.9 and numpy, nothing else:
    python3 -m venv .venv && .venv/bin/pip install numpy
    .venv/bin/python tools/train_model.py --output my.model capture1.features capture2.features
The same files, options, seed, numpy and CPU give the same model."""

import argparse
import datetime
import os
import struct
import sys
import zlib

# Sums in several threads come in any order; one thread makes a run repeatable.
for variable in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ[variable] = "1"

try:
    import numpy as np
except ImportError:
    sys.exit("train_model.py: numpy is missing: python3 -m venv .venv && "
             ".venv/bin/pip install numpy, then run it with .venv/bin/python")

INPUTS = 16
WIDTHS = (32, 16, 3)
RELU, NONE = 1, 0
VALID, RESYNC, STALE, CROSSED = 1 << 0, 1 << 2, 1 << 3, 1 << 4
TRAIN_SHARE = 0.70
VALIDATION_SHARE = 0.15
INPUT_LIMIT = 8.0

FEATURE = np.dtype({
    "names": ["timestamp_ns", "bid_price", "ask_price", "symbol", "flags", "x"],
    "formats": ["<u8", "<i8", "<i8", "<u2", "u1", ("<f4", INPUTS)],
    "offsets": [0, 8, 16, 52, 55, 56],
    "itemsize": 128,
})

HEADER_BYTES = 1536
LAYERS_MAX = 16
PROVENANCE_BYTES = 960


class Refusal(Exception):
    """Something the user can put right."""


def read_features(path):
    size = os.path.getsize(path)
    if size == 0 or size % FEATURE.itemsize != 0:
        raise Refusal(f"{path}: {size} bytes is not a whole number of {FEATURE.itemsize}-byte "
                      "feature records: name a file that bus-feed --output wrote")
    return np.fromfile(path, dtype=FEATURE)


def label_moves(time, mid, horizon_ns, gap_ns):
    """Relative move of the mid over the horizon, NaN where the data does not tell: at the end, and
    where no record lies within gap_ns around the horizon's end."""
    after = np.searchsorted(time, time + horizon_ns, side="right")
    known = after < len(time)
    following = np.minimum(after, len(time) - 1)
    known &= time[following] - time[after - 1] <= gap_ns
    return np.where(known, mid[after - 1] / mid - 1.0, np.nan)


def load_samples(path, horizon_ns, gap_ns):
    """Returns time (i8, ns), x, move, sorted by time, of every usable sample of all symbols."""
    records = read_features(path)
    usable = ((records["flags"] & (VALID | RESYNC | STALE | CROSSED)) == VALID)
    usable &= (records["bid_price"] > 0) & (records["ask_price"] > records["bid_price"])
    records = records[usable]
    times, inputs, moves = [], [], []
    for symbol in np.unique(records["symbol"]):
        rows = records[records["symbol"] == symbol]
        rows = rows[np.argsort(rows["timestamp_ns"], kind="stable")]
        time = rows["timestamp_ns"].astype(np.int64)
        mid = (rows["bid_price"].astype(np.float64) + rows["ask_price"]) / 2.0
        move = label_moves(time, mid, horizon_ns, gap_ns)
        known = np.isfinite(move)
        times.append(time[known])
        inputs.append(rows["x"][known])
        moves.append(move[known])
    found = sum(map(len, times))
    if found < 1000:
        raise Refusal(f"{path}: {found} usable samples, fewer than 1000: record longer, or lower "
                      "--horizon-ms")
    time = np.concatenate(times)
    order = np.argsort(time, kind="stable")
    return time[order], np.concatenate(inputs)[order], np.concatenate(moves)[order]


def split(time, horizon_ns):
    """Masks of the training, validation and test samples: by time, with the horizon purged."""
    first, last = int(time[0]), int(time[-1])
    test_from = first + int((last - first) * TRAIN_SHARE)
    check_from = first + int((last - first) * TRAIN_SHARE * (1.0 - VALIDATION_SHARE))
    train = time + horizon_ns < check_from
    check = (time >= check_from) & (time + horizon_ns < test_from)
    return train, check, time >= test_from


def load_files(paths, horizon_ns, gap_ns):
    """Returns {"train" | "check" | "test": (x, move)}, and the first and last time."""
    parts = {"train": [], "check": [], "test": []}
    spans = []
    for path in paths:
        time, x, move = load_samples(path, horizon_ns, gap_ns)
        spans.append((int(time[0]), int(time[-1])))
        for name, mask in zip(parts, split(time, horizon_ns)):
            parts[name].append((x[mask], move[mask]))
        print(f"{path}: {len(time)} samples over {(time[-1] - time[0]) / 1e9:.0f} s")
    joined = {name: tuple(np.concatenate(columns) for columns in zip(*rows))
              for name, rows in parts.items()}
    for name, (x, _) in joined.items():
        if len(x) < 100:
            raise Refusal(f"{len(x)} samples are left for the part \"{name}\": name longer "
                          "captures")
    return joined, min(s[0] for s in spans), max(s[1] for s in spans)


def classes(move, dead_zone):
    return np.where(move > dead_zone, 2, np.where(move < -dead_zone, 0, 1))


def measure_normalisation(x):
    """Mean and 1/standard deviation of each input; an input that never changes gets scale 0."""
    finite = np.where(np.isfinite(x), x, np.nan).astype(np.float64)
    with np.errstate(all="ignore"):
        mean = np.nan_to_num(np.nanmean(finite, axis=0))
        deviation = np.nan_to_num(np.nanstd(finite, axis=0))
    floor = 1e-9 * np.maximum(np.abs(mean), 1e-9)
    scale = np.where(deviation > floor, 1.0 / np.maximum(deviation, floor), 0.0)
    return mean.astype("<f4"), np.minimum(scale, 1e30).astype("<f4")


def normalise(x, mean, scale):
    """As kernels/arithmetic.h: NaN is read as 0, the rest clamped."""
    with np.errstate(all="ignore"):
        y = (x.astype(np.float32) - mean) * scale
    return np.clip(np.where(np.isnan(y), np.float32(0), y), -INPUT_LIMIT, INPUT_LIMIT)


def forward(parameters, x):
    """Activations of every layer, and the probabilities."""
    values = [x]
    for i, (weights, bias) in enumerate(parameters):
        z = values[-1] @ weights.T + bias
        values.append(np.maximum(z, 0) if i + 1 < len(parameters) else z)
    z = values[-1] - values[-1].max(axis=1, keepdims=True)
    e = np.exp(z)
    return values, e / e.sum(axis=1, keepdims=True)


def predict(parameters, x):
    return np.concatenate([forward(parameters, x[i:i + 65536])[1] for i in range(0, len(x), 65536)])


def loss_of(probability, label):
    return float(-np.log(np.maximum(probability[np.arange(len(label)), label], 1e-12)).mean())


def gradients(parameters, x, label, decay):
    values, delta = forward(parameters, x)
    delta[np.arange(len(label)), label] -= 1
    delta /= len(label)
    result = []
    for i in reversed(range(len(parameters))):
        weights, _ = parameters[i]
        result.append((delta.T @ values[i] + decay * weights, delta.sum(axis=0)))
        if i > 0:
            delta = (delta @ weights) * (values[i] > 0)
    return result[::-1]


class Adam:
    """Kingma and Ba, 2015, algorithm 1."""

    def __init__(self, parameters, rate):
        self.rate, self.step = rate, 0
        self.first = [[np.zeros_like(p) for p in layer] for layer in parameters]
        self.second = [[np.zeros_like(p) for p in layer] for layer in parameters]

    def update(self, parameters, gradient):
        self.step += 1
        rate = self.rate * np.sqrt(1 - 0.999 ** self.step) / (1 - 0.9 ** self.step)
        for i, layer in enumerate(parameters):
            for j, values in enumerate(layer):
                g = gradient[i][j]
                self.first[i][j] += 0.1 * (g - self.first[i][j])
                self.second[i][j] += 0.001 * (g * g - self.second[i][j])
                values -= (rate * self.first[i][j] / (np.sqrt(self.second[i][j]) + 1e-8)).astype(
                    np.float32)


def train(parts, options, random):
    """Returns the parameters of the epoch that was best on the validation samples."""
    (x, label), (check_x, check_label) = parts
    parameters, inputs = [], INPUTS
    for width in WIDTHS:
        weights = random.standard_normal((width, inputs)) * np.sqrt(2.0 / inputs)
        parameters.append([weights.astype(np.float32), np.zeros(width, np.float32)])
        inputs = width
    adam = Adam(parameters, options.learning_rate)
    best, best_loss = None, np.inf
    for epoch in range(options.epochs):
        order = random.permutation(len(x))
        for at in range(0, len(x), options.batch):
            rows = order[at:at + options.batch]
            adam.update(parameters, gradients(parameters, x[rows], label[rows], options.decay))
        loss = loss_of(predict(parameters, check_x), check_label)
        print(f"epoch {epoch + 1}: validation loss {loss:.5f}")
        if loss < best_loss:
            best, best_loss = [[p.copy() for p in layer] for layer in parameters], loss
    if best is None:
        raise Refusal("the training diverged: lower --learning-rate")
    return best


def rank(values):
    """Ranks with ties averaged."""
    _, inverse, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2.0)[inverse]


def correlation(a, b):
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else 0.0


def report(probability, move, dead_zone):
    label = classes(move, dead_zone)
    called = probability.argmax(axis=1)
    share = np.bincount(label, minlength=3) / len(label)
    moved = (called != 1) & (move != 0)
    hit = float(((called[moved] == 2) == (move[moved] > 0)).mean()) if moved.any() else float("nan")
    score = probability[:, 2].astype(np.float64) - probability[:, 0]
    figures = {
        "samples": len(label),
        "accuracy": float((called == label).mean()),
        "majority": float(share.max()),
        "hit_rate": hit,
        "called_share": float((called != 1).mean()),
        "ic": correlation(score, move),
        "rank_ic": correlation(rank(score), rank(move)),
    }
    print(f"out of sample: {figures['samples']} samples, sell/flat/buy "
          f"{share[0]:.3f}/{share[1]:.3f}/{share[2]:.3f}")
    print(f"  accuracy {figures['accuracy']:.4f} (always the commonest class: "
          f"{figures['majority']:.4f})")
    print(f"  hit rate {figures['hit_rate']:.4f} of the moves where buy or sell was called "
          f"({figures['called_share']:.3f} of the samples)")
    print(f"  information coefficient {figures['ic']:.4f} (rank {figures['rank_ic']:.4f}); "
          "overlapping horizons, before costs")
    return figures


def model_bytes(parameters, mean, scale, provenance):
    """The file that kernels/model.h describes."""
    text = "".join(c if c >= " " and c != "\x7f" or c == "\n" else "?" for c in provenance)
    text = text.encode()[:PROVENANCE_BYTES - 1].decode(errors="ignore").encode()
    offset = HEADER_BYTES + 2 * 4 * len(mean)
    table, body = b"", mean.astype("<f4").tobytes() + scale.astype("<f4").tobytes()
    for i, (weights, bias) in enumerate(parameters):
        activation = RELU if i + 1 < len(parameters) else NONE
        bias_offset = offset + 4 * weights.size
        table += struct.pack("<IIQQQ", len(bias), activation, offset, bias_offset, 0)
        offset = bias_offset + 4 * bias.size
        body += weights.astype("<f4").tobytes() + bias.astype("<f4").tobytes()
    before = struct.pack("<8sIIQ", b"BUSMODEL", 1, HEADER_BYTES, HEADER_BYTES + len(body))
    after = struct.pack("<III24x", len(mean), len(parameters), len(parameters[-1][1]))
    after += table.ljust(32 * LAYERS_MAX, b"\0") + text.ljust(PROVENANCE_BYTES, b"\0") + body
    return before + struct.pack("<I", zlib.crc32(after, zlib.crc32(before))) + after


def read_model(path):
    """Parameters, mean and scale of a model with this script's shape."""
    with open(path, "rb") as file:
        data = file.read()
    if data[:8] != b"BUSMODEL" or len(data) < HEADER_BYTES:
        raise Refusal(f"{path}: not a signal-bus model")
    if struct.unpack_from("<I", data, 24)[0] != zlib.crc32(data[28:], zlib.crc32(data[:24])):
        raise Refusal(f"{path}: wrong CRC: copy it again")
    inputs, layers = struct.unpack_from("<II", data, 28)
    table = [struct.unpack_from("<IIQQ", data, 64 + 32 * i) for i in range(layers)]
    shape = [(row[0], row[1]) for row in table]
    if inputs != INPUTS or shape != [(32, RELU), (16, RELU), (3, NONE)]:
        raise Refusal(f"{path}: not a {INPUTS}-32-16-3 model with ReLU: this script evaluates no "
                      "other")
    numbers = np.frombuffer(data, "<f4", offset=HEADER_BYTES)
    parameters, read = [], inputs
    for width, _, weights, bias in table:
        parameters.append((np.frombuffer(data, "<f4", width * read, weights).reshape(width, read),
                           np.frombuffer(data, "<f4", width, bias)))
        read = width
    return parameters, numbers[:inputs], numbers[inputs:2 * inputs]


def date_range(first_ns, last_ns):
    """Dates when the timestamps count from 1970; a bus clock that counts from boot has none."""
    if first_ns < 10 ** 18:
        return f"{(last_ns - first_ns) / 1e9:.0f} s of bus clock"
    dates = [datetime.datetime.fromtimestamp(t // 10 ** 9, datetime.timezone.utc)
             for t in (first_ns, last_ns)]
    return " to ".join(date.strftime("%Y-%m-%d %H:%M:%SZ") for date in dates)


def describe(options, parts, span, dead_zone, figures):
    names = ", ".join(os.path.basename(path) for path in options.features)
    lines = [
        f"{os.path.basename(__file__)}, seed {options.seed}, {options.epochs} epochs",
        f"captured {options.captured or date_range(*span)}",
        f"{len(parts['train'][0])} training samples, horizon {options.horizon_ms} ms, "
        f"dead zone {dead_zone * 1e4:.4f} bp",
        f"out of sample ({figures['samples']}): accuracy {figures['accuracy']:.4f} (majority "
        f"{figures['majority']:.4f}), hit rate {figures['hit_rate']:.4f}, IC {figures['ic']:.4f}",
    ]
    if options.note:
        lines.append(options.note)
    return "\n".join(lines + [f"from {names}"])


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("features", nargs="+", help="files of 128-byte feature records")
    parser.add_argument("--output", help="the model file to write")
    parser.add_argument("--evaluate", metavar="MODEL", help="do not train: report on this model")
    parser.add_argument("--horizon-ms", type=int, default=1000, help="default 1000")
    parser.add_argument("--dead-zone-bp", type=float,
                        help="largest flat move in basis points; default: a third of the training "
                        "samples are flat, or more when more did not move at all")
    parser.add_argument("--gap-ms", type=int, default=5000,
                        help="a longer silence at the horizon's end voids a label; default 5000")
    parser.add_argument("--epochs", type=int, default=10, help="default 10")
    parser.add_argument("--batch", type=int, default=512, help="default 512")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="default 0.001")
    parser.add_argument("--decay", type=float, default=1e-5, help="L2 weight decay, default 1e-5")
    parser.add_argument("--seed", type=int, default=1, help="default 1")
    parser.add_argument("--captured", help="when the captures were made, for the model's text")
    parser.add_argument("--note", help="one more line for the model's text")
    options = parser.parse_args()
    if (options.output is None) == (options.evaluate is None):
        parser.error("give either --output or --evaluate")
    if min(options.horizon_ms, options.epochs, options.batch) < 1:
        parser.error("--horizon-ms, --epochs and --batch must be at least 1")
    return options


def run(options):
    parts, first, last = load_files(options.features, options.horizon_ms * 10 ** 6,
                                    options.gap_ms * 10 ** 6)
    dead_zone = (options.dead_zone_bp * 1e-4 if options.dead_zone_bp is not None else
                 float(np.quantile(np.abs(parts["train"][1]), 1.0 / 3.0)))
    print(f"dead zone {dead_zone * 1e4:.4f} bp")
    if options.evaluate is not None:
        parameters, mean, scale = read_model(options.evaluate)
        report(predict(parameters, normalise(parts["test"][0], mean, scale)), parts["test"][1],
               dead_zone)
        return
    mean, scale = measure_normalisation(parts["train"][0])
    x = {name: normalise(part[0], mean, scale) for name, part in parts.items()}
    labelled = [(x[name], classes(parts[name][1], dead_zone)) for name in ("train", "check")]
    parameters = train(labelled, options, np.random.default_rng(options.seed))
    figures = report(predict(parameters, x["test"]), parts["test"][1], dead_zone)
    data = model_bytes(parameters, mean, scale,
                       describe(options, parts, (first, last), dead_zone, figures))
    with open(options.output + ".tmp", "wb") as file:
        file.write(data)
    read_model(options.output + ".tmp")
    os.replace(options.output + ".tmp", options.output)
    crc = struct.unpack_from("<I", data, 24)[0]
    print(f"{options.output}: {len(data)} bytes, model id {crc & 0xffff:04x}")


if __name__ == "__main__":
    try:
        run(parse_arguments())
    except (Refusal, OSError) as refusal:
        sys.exit(f"train_model.py: {refusal}")
