"""A component that trains a linear classifier on the frozen encoder, as a servable model."""
