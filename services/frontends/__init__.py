"""The front ends: they convert, delegate to the engine, and hold no state."""
