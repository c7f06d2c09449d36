"""Exports encoders: as SavedModels that TF Serving loads, and to other formats."""

from byol_tf.export.classifier import save_classifier
from byol_tf.export.encoder import load_encoder, load_saved_model, save_encoder, saved_weights
from byol_tf.export.keras_file import save_keras
from byol_tf.export.onnx_file import save_onnx
from byol_tf.export.tflite_file import save_tflite

__all__ = [
    "load_encoder",
    "load_saved_model",
    "save_classifier",
    "save_encoder",
    "save_keras",
    "save_onnx",
    "save_tflite",
    "saved_weights",
]
