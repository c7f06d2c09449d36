"""Loads an export as a server does and replays requests."""
