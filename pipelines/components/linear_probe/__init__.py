"""A linear classifier on the frozen encoder, as a servable model."""
