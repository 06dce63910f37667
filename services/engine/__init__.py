"""The inference engine: numpy in, numpy out. It knows no protocol."""
