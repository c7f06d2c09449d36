"""The choices of flags and configs; imports no TensorFlow, so that `--help` answers at once."""

FORMATS = ("saved_model", "keras", "onnx", "tflite")
STRATEGIES = ("default", "mirrored", "multi_worker", "tpu", "auto")
STUDIES = ("batch_size", "augmentations", "target_ema", "method")
