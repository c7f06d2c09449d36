"""Pretraining: strategies, resumable runs, callbacks."""
