"""Pure codecs: wire bytes to engine requests, engine responses to wire bytes."""
