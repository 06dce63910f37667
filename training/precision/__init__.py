"""Models in other precisions, published beside the float32 one and never in its place.

`variants` makes, proves and publishes them; `float16` and `int8` convert the ONNX file; `judge` measures what it cost.
"""
