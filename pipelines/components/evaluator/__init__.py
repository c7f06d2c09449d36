"""TFX's Evaluator, for a classifier that may be missing."""
