"""gRPC: one table of methods over bytes (`methods.py`), and the transport that carries it (`server.py`)."""
