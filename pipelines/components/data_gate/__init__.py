"""Stops the run before training where the data have changed too much."""
