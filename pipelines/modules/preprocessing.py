"""Transform's preprocessing_fn."""

import tensorflow as tf

from byol_tf.preprocessing import bound_shorter_side


def preprocessing_fn(inputs: dict[str, tf.Tensor], custom_config: dict) -> dict[str, tf.Tensor]:
    """Bounds the images' shorter side; everything else passes through.

    Args:
        inputs: features of ImageExampleGen, `[B, 1]`.
        custom_config: `shorter_side`, pixels.
    """
    bounded = tf.map_fn(
        lambda image_bytes: bound_shorter_side(image_bytes, custom_config["shorter_side"]),
        tf.reshape(inputs["image/encoded"], [-1]),
        fn_output_signature=tf.string,
    )
    return inputs | {"image/encoded": bounded[:, tf.newaxis]}
