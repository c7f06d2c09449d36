"""What TFX calls by name in its own components; adapters to byol_tf, and nothing more."""
