"""Names that flags and configs choose from. Imports no TensorFlow, so that `--help` answers at once."""

STRATEGIES = ("default", "mirrored", "multi_worker", "tpu", "auto")
STUDIES = ("batch_size", "augmentations", "target_ema", "method")
