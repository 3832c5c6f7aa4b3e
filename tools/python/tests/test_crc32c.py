import numpy as np
import pytest
from writer import crc32c as reference

from signalbus import crc32c


@pytest.mark.parametrize("function", [crc32c.crc32c_numpy, crc32c.crc32c])
def test_known_value(function):
    assert function(np.frombuffer(b"123456789", np.uint8)) == 0xE3069283


@pytest.mark.parametrize("function", [crc32c.crc32c_numpy, crc32c.crc32c])
def test_all_sizes(function):
    random = np.random.default_rng(1)
    for size in [*range(80), 127, 128, 129, 255, 4031, 4032, 65535, 65536, 200_003]:
        data = random.integers(0, 256, size, np.uint8)
        assert function(data) == reference(data.tobytes()), size
        data.flags.writeable = False
        assert function(data) == reference(data.tobytes()), size
