"""Published versions of one task beside each other: the same held-out rows, metrics, sizes, and latency as served.

`candidates` finds them and `rows` the rows they are judged on; `measure` runs the engine, `judge` says which differences are
more than chance, `report`, `plots` and `table` show it. None of it takes TensorFlow,
but what some families judge by does: the autoencoder's baseline encodes rows by a layer, and pictures from text are looked at
by a network.
"""
