"""Captures of the signal bus, and the live bus, as NumPy arrays.

capture = signalbus.open_capture("run-1")
features = capture["feed.features"].to_pandas()

for batch in signalbus.attach().follow("infer", "signals"):
...

signalbus.llm asks language models through the bridge.
"""

from .capture import Block, Capture, Stream, Time, open_capture
from .errors import AttachError, CaptureError, DamageError, MissingLibraryError, SignalBusError
from .histogram import Histogram
from .layout import FEATURE, FEATURE_INPUTS, GAP, SIGNAL, FeatureFlag, GapCause, RecordType, SignalFlag, Trigger
from .live import Batch, Bus, Observer, attach
from .member import Member
from .segment import Meta, Segment

__version__ = "0.1.0"
__all__ = [
    "FEATURE",
    "FEATURE_INPUTS",
    "GAP",
    "SIGNAL",
    "AttachError",
    "Batch",
    "Block",
    "Bus",
    "Capture",
    "CaptureError",
    "DamageError",
    "FeatureFlag",
    "GapCause",
    "Histogram",
    "Member",
    "Meta",
    "MissingLibraryError",
    "Observer",
    "RecordType",
    "Segment",
    "SignalBusError",
    "SignalFlag",
    "Stream",
    "Time",
    "Trigger",
    "attach",
    "open_capture",
]
