"""Mains: one graph (`pipelines.pipeline`), a module for each way to run it."""
