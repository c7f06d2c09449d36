"""A component that reads images from any Beam file system into tf.Examples in splits."""
