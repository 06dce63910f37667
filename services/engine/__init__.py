"""The inference engine: numpy in, numpy out. It knows no protocol."""

import os

# ONNX Runtime reads it when it is imported, and would write a device id and a database of events into the user's cache.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
