"""The package's dtypes and values are those of the C headers: by the tables that the headers print into shm/ABI.md."""

import os
import re
import sys
from struct import calcsize

import numpy as np
import pytest
from conftest import SOURCE

from signalbus import layout

sys.path.insert(0, os.path.join(SOURCE, "tests", "abi"))
from reader import Document

DOCUMENT = Document(os.path.join(SOURCE, "shm", "ABI.md"))
CODES = {"b": "i1", "B": "u1", "h": "i2", "H": "u2", "i": "i4", "I": "u4", "q": "i8", "Q": "u8", "f": "f4"}
STRUCTS = {
    "bus_feature": layout.FEATURE,
    "bus_signal": layout.SIGNAL,
    "bus_gap": layout.GAP,
    "bus_llm_request": layout.LLM_REQUEST,
    "bus_llm_reply": layout.LLM_REPLY,
    "bus_symbol": layout.SYMBOL,
    "bus_member_header": layout.MEMBER_HEADER,
    "bus_entry": layout.ENTRY,
    "bus_ring_header": layout.RING_HEADER,
    "bus_position": layout.POSITION,
    "bus_histogram": layout.HISTOGRAM,
}
ENUMS = {
    "bus_record_type": (layout.RecordType, "BUS_RECORD_"),
    "bus_feature_flag": (layout.FeatureFlag, "BUS_FEATURE_"),
    "bus_trigger": (layout.Trigger, "BUS_TRIGGER_"),
    "bus_signal_flag": (layout.SignalFlag, "BUS_SIGNAL_"),
    "bus_engine_id": (layout.Engine, "BUS_ENGINE_"),
    "bus_gap_cause": (layout.GapCause, "BUS_GAP_"),
    "bus_llm_kind": (layout.LlmKind, "BUS_LLM_"),
    "bus_llm_request_flag": (layout.LlmRequestFlag, "BUS_LLM_"),
    "bus_llm_reply_kind": (layout.LlmReplyKind, "BUS_LLM_"),
    "bus_llm_status": (layout.LlmStatus, "BUS_LLM_"),
    "bus_llm_reply_flag": (layout.LlmReplyFlag, "BUS_LLM_"),
    "bus_member_state": (layout.MemberState, "BUS_STATE_"),
    "bus_object_type": (layout.ObjectType, "BUS_OBJECT_"),
    "bus_policy": (layout.Policy, "BUS_POLICY_"),
}


@pytest.mark.parametrize("name", STRUCTS)
def test_struct(name):
    if name not in DOCUMENT.structs:
        pytest.skip(f"shm/ABI.md has no {name} in this state")
    struct, dtype = DOCUMENT.structs[name], STRUCTS[name]
    assert dtype.itemsize == struct.size
    assert list(dtype.names) == [field[0] for field in struct.fields]
    for field, offset, code, is_text, _ in struct.fields:
        kind, at = dtype.fields[field][:2]
        assert at == offset, field
        count, letter = re.fullmatch(r"<(\d*)(\w)", code).groups()
        if is_text or field.startswith("reserved") and count:  # text and reserved bytes
            assert kind.itemsize == calcsize(code) and kind.kind in "SV", field
        else:
            assert kind.base == np.dtype("<" + CODES[letter]) and kind.shape == ((int(count),) if count else ()), field


@pytest.mark.parametrize("name", ENUMS)
def test_enum(name):
    if name not in DOCUMENT.enums:
        pytest.skip(f"shm/ABI.md has no {name} in this state")
    enum, prefix = ENUMS[name]
    there = {text.removeprefix(prefix): value for value, text in DOCUMENT.enums[name].items()}
    mine = {member.name: member.value for member in enum}
    assert there.items() <= mine.items()
    newer = {
        "bus_record_type": {"GAP", "LLM_REQUEST", "LLM_REPLY"},
        "bus_object_type": {"STAGING", "TABLE"},
    }
    assert mine.keys() - there.keys() <= newer.get(name, set())


def test_constants():
    constants = DOCUMENT.constants
    assert constants["BUS_MAGIC"] == layout.MEMBER_MAGIC and constants["BUS_ABI_VERSION"] in layout.ABI_VERSIONS
    for name in (
        "NAME_BYTES",
        "ENTRIES_MAX",
        "FILE_BYTES_MAX",
        "RING_DEPTH_MAX",
        "RECORD_BYTES_MAX",
        "RING_HEADER_BYTES",
        "HISTOGRAM_BUCKETS",
        "STAGING_HEADER_BYTES",
        "LLM_HEADER_BYTES",
        "LLM_FRAGMENTS_MAX",
    ):
        newer = ("STAGING_HEADER_BYTES", "LLM_HEADER_BYTES", "LLM_FRAGMENTS_MAX")
        if name not in newer or "BUS_" + name in constants:
            assert constants["BUS_" + name] == getattr(layout, name), name
    assert constants["BUS_FEATURE_INPUTS"] == len(layout.FEATURE_INPUTS)


def test_names_of_the_inputs():
    with open(os.path.join(SOURCE, "producers", "features.c"), encoding="utf-8") as file:
        text = file.read()
    assert tuple(re.findall(r'^ +\{"(\w+)", "', text, re.MULTILINE)) == layout.FEATURE_INPUTS


def test_block_header():
    path = os.path.join(SOURCE, "consumers", "capture_format.h")
    if not os.path.exists(path):
        pytest.skip("no consumers/capture_format.h in this state")
    with open(path, encoding="utf-8") as file:
        text = file.read()
    offsets = re.findall(r"BUS_ASSERT_OFFSET\(bus_capture_block, (\w+), (\d+)\)", text)
    assert offsets == [(name, str(layout.BLOCK_HEADER.fields[name][1])) for name in layout.BLOCK_HEADER.names]
    body = re.search(r"struct bus_capture_block \{(.*?)\n\};", text, re.DOTALL).group(1)
    types = dict((name, size) for size, name in re.findall(r"uint(\d+)_t (\w+);", body))
    assert types == {name: str(layout.BLOCK_HEADER[name].itemsize * 8) for name in layout.BLOCK_HEADER.names}
    assert int(re.search(r"BUS_CAPTURE_MAGIC +0x(\w+)u", text).group(1), 16) == layout.BLOCK_MAGIC
