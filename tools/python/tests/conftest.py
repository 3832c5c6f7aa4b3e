import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))
from writer import write_capture

SOURCE = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..", ".."))


@pytest.fixture
def capture(tmp_path):
    """(directory, records by stream)"""
    directory = tmp_path / "capture"
    directory.mkdir()
    return directory, write_capture(directory)


def pytest_configure(config):
    config.addinivalue_line("markers", "live: needs the programs of a build directory")


@pytest.fixture(scope="session")
def build():
    """The build directory of signal-bus, from $SIGNAL_BUS_BUILD."""
    path = os.environ.get("SIGNAL_BUS_BUILD")
    if not path:
        pytest.skip("no $SIGNAL_BUS_BUILD with the programs")
    return os.path.abspath(path)
