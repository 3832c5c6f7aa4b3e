import os
import subprocess
import sys

import pytest

EXAMPLE = os.path.join(os.path.dirname(__file__), "..", "examples", "first_look.py")


def test_first_look(capture, tmp_path):
    directory, records = capture
    picture = tmp_path / "x.png"
    result = subprocess.run(
        [sys.executable, EXAMPLE, directory, picture], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    assert f"feed.features: {len(records['feed.features'])} FEATURE records" in result.stdout
    assert "BTCUSDT: spread p10" in result.stdout and "buy: " in result.stdout and "0 missing" in result.stdout
    # What it says of the next moves, counted in another way.
    ticks = records["feed.features"]
    mids = ticks["bid_price"] + ticks["ask_price"]
    up = total = 0
    for signal in records["infer.signals"]:
        at = int(signal["feature_position"])
        later = [mids[i] for i in range(at + 2, len(mids), 2) if mids[i] != mids[at]]
        if signal["direction"] == 1 and later:
            up, total = up + (later[0] > mids[at]), total + 1
    assert f"buy: {total} signals, next move up {up / total:.1%}" in result.stdout
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        assert "no picture: pip install" in result.stdout
        pytest.skip("no matplotlib")
    assert picture.read_bytes().startswith(b"\x89PNG")
