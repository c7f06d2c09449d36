"""Images of any Beam file system, as tf.Examples in splits."""
