"""Multi-crop (SwAV, arXiv 2006.09882, section 3.3): small crops in the online network only."""

from collections.abc import Sequence

import keras
import tensorflow as tf

from byol_tf.errors import UserError
from byol_tf.models import moving_statistics


def predictions(
    networks: Sequence[keras.Model], small_crops: Sequence[tf.Tensor], training: bool
) -> list[tf.Tensor]:
    """Returns the online network's prediction for each small crop.

    As in SwAV, all of a batch go through the network together and share their batch statistics.
    BatchNorm's moving statistics stay those of the two views, whose size is that of the images that
    the encoder is evaluated and served on.

    Args:
        networks: Encoder, projector and predictor, as many as there are.
        small_crops: N small crops of each image, float `[B, s, s, C]` each.
        training: Whether BatchNorm uses batch statistics.

    Returns:
        N predictions, float `[B, P]` each.

    Raises:
        ValueError: The encoder takes no images of this size.
    """
    if not small_crops:
        return []
    encoder, *heads = networks
    size = small_crops[0].shape[1]
    layers = []  # In inference mode none moves.
    if training:
        layers = [layer for network in networks for layer in moving_statistics.batch_norms(network)]
    before = moving_statistics.read(layers)
    try:
        result = AnySize(encoder)(tf.concat(small_crops, axis=0), training=training)
    except (ValueError, tf.errors.InvalidArgumentError) as error:
        raise ValueError(_refusal(encoder, size, error)) from error
    for head in heads:
        result = head(result, training=training)
    moving_statistics.put_back(layers, before)
    return tf.split(result, len(small_crops))


def check_size(encoder: keras.Model, size: int) -> None:
    """Raises `UserError` unless the encoder takes images `[B, size, size, C]`."""
    try:
        AnySize(encoder)(tf.zeros([1, size, size, encoder.input_shape[-1]]), training=False)
    except (ValueError, tf.errors.InvalidArgumentError) as error:
        raise UserError(_refusal(encoder, size, error)) from error


def _refusal(encoder: keras.Model, size: int | None, error: Exception) -> str:
    return (
        f"the encoder '{encoder.name}' takes images {encoder.input_shape} and no small crops of "
        f"{size} pixels; give the size that it takes as augment.small_crop_size, or an encoder for "
        f"any size, such as a ResNet ({' '.join(str(error).split())[:200]})."
    )


class AnySize(keras.layers.Layer):
    """Calls an encoder on images of another size than it was built for.

    Keras checks the size where a functional model is called, though convolutions take any. This
    layer is made for a call, owns no weights of its own and is part of no model.
    """

    def __init__(self, encoder: keras.Model):
        super().__init__(dtype="float32", autocast=False)  # The encoder's own layers cast.
        self._encoder = encoder

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns the representation `[B, D]`."""
        return self._encoder.call(images, training=training)
