"""Keras callbacks: resumable checkpoints, collapse monitoring, online kNN, a progress bar. None changes training."""
