"""Exports encoders and classifiers as SavedModels that TF Serving loads."""

from byol_tf.export.classifier import save_classifier
from byol_tf.export.encoder import load_encoder, load_saved_model, save_encoder, saved_weights

__all__ = ["load_encoder", "load_saved_model", "save_classifier", "save_encoder", "saved_weights"]
