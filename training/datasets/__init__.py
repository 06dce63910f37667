"""Readers of the user's files and of the default data, one file per kind of data."""
