"""Keras callbacks: checkpoints, history, collapse, online kNN, progress. None changes training."""
