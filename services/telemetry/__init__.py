"""Metrics, logs and traces: a leaf that every room may import."""
