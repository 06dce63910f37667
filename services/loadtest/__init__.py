"""Load tests: offers a server a known load in any of our protocols, and says what the server, and the client, made of it."""
