"""Layers of our own that families put into the graph, one module for each kind of data."""
