"""The pieces of the autoencoder family: what differs between tables and pictures, the networks, the threshold, the report.

`training.pipelines.autoencoder` puts them together.
"""
