"""Functions that TFX calls by name in its own components; thin adapters to byol_tf."""
