"""Published versions of one task beside each other: the same held-out rows, metrics, sizes, and latency as served.

`candidates` finds them and `rows` the rows they are judged on; `measure` runs the engine, `judge` says which differences are
more than chance, `report`, `plots` and `table` show it. None of it takes TensorFlow.
"""
