"""The feature maps of an encoder's stages, at several strides, for dense tasks.

The paper's heads of section 4.3 and appendices D.4 to D.6 use them.
"""

import re

import keras
import tensorflow as tf

from byol_tf.errors import UserError

_STAGES = ("c2", "c3", "c4", "c5")


def stage_outputs(
    encoder: keras.Model, image_size: int | None = None, dilated_c5: bool = False
) -> keras.Model:
    """Returns a model that gives the feature maps of an encoder's stages, without global pooling.

    The weights are copies: training the result leaves the encoder unchanged. Everything stays
    trainable. BatchNorm is synchronised if the current strategy has several replicas.

    Args:
        encoder: Encoder of `networks.resnet`, of any depth, width and stem, also a restored one;
            its stages are found by the layers' names.
        image_size: Side of square inputs, in pixels; None accepts any height and width.
        dilated_c5: Whether c5 keeps the stride of c4: all its 3x3 convolutions, including the first
            block's, have stride 1 and dilation 2 (appendix D.4). The weights are the same.

    Returns:
        A functional model, float `[B, H, W, C]` -> {"c2": ..., "c3": ..., "c4": ..., "c5": ...},
        maps `[B, ceil(H / s), ceil(W / s), D]` at the strides s = 4, 8, 16, 32, with the small stem
        1, 2, 4, 8; a dilated c5 has stride 16, or 4. The average of an undilated c5 over H and W is
        the encoder's representation.

    Raises:
        UserError: The encoder is not a ResNet of this package.
    """
    ends = {stage: _last_layer(encoder, stage) for stage in _STAGES}

    def clone(layer):
        config = layer.get_config()
        if dilated_c5 and layer.name.startswith("c5_") and isinstance(layer, keras.layers.Conv2D):
            config["strides"] = (1, 1)
            if config["kernel_size"] == (3, 3):
                config["dilation_rate"] = (2, 2)
        elif dilated_c5 and layer.name.startswith("c5_") and "padding" in config:
            config["padding"] = (2, 2)  # The border of that convolution, where it is a layer.
        return layer.__class__.from_config(config)

    images = keras.Input((image_size, image_size, encoder.input_shape[-1]), name="images")
    copy = keras.models.clone_model(encoder, images, clone)
    copy.set_weights(encoder.get_weights())
    outputs = {stage: copy.get_layer(name).output for stage, name in ends.items()}
    return keras.Model(copy.inputs[0], outputs, name=f"{encoder.name}_stages")


def resized_to(images: tf.Tensor, maps: tf.Tensor) -> tf.Tensor:
    """Resizes maps `[B, h, w, D]` in a functional model bilinearly to the size of its images."""
    # Keras 3 takes functions of TensorFlow in layers only.
    return keras.layers.Lambda(
        lambda pair: tf.image.resize(pair[1], tf.shape(pair[0])[1:3]), name="resized"
    )([images, maps])


def _last_layer(encoder: keras.Model, stage: str) -> str:
    """Returns the name of the layer that ends a stage: the last ReLU of its last block."""
    pattern = re.compile(rf"{stage}_block(\d+)_relu(\d+)")
    names = [layer.name for layer in getattr(encoder, "layers", ())]
    matches = [match for match in map(pattern.fullmatch, names) if match]
    if not matches:
        raise UserError(
            f"the encoder '{getattr(encoder, 'name', encoder)}' has no layers {stage}_block1_relu1 "
            "and so on, whose feature maps dense tasks need; give a ResNet of "
            "byol_tf.networks.resnet, which a run with encoder.name=resnet has."
        )
    return max(matches, key=lambda match: (int(match[1]), int(match[2]))).string
