"""A component that loads an export as a server does and replays requests."""
