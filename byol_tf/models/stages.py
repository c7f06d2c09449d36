"""The stages inside an encoder: feature maps at several strides, for dense tasks.

Paper: section 4.3 and appendices D.4 to D.6 put their heads on them.
"""

import re

import keras

from byol_tf.errors import UserError

_STAGES = ("c2", "c3", "c4", "c5")


def stage_outputs(
    encoder: keras.Model, image_size: int | None = None, dilated_c5: bool = False
) -> keras.Model:
    """Exposes what an encoder's stages give, without its global pooling.

    The weights are copies: training the result leaves the encoder as it is. Everything stays
    trainable. BatchNorm is synchronised as the strategy asks under whose scope this is called.

    Args:
        encoder: of `networks.resnet`, of any depth, width and stem, also a restored one. What is
            looked for are its layers' names.
        image_size: side of square inputs, pixels; None takes inputs of any height and width.
        dilated_c5: c5 keeps the stride of c4: all its 3x3 convolutions, the first block's too,
            have stride 1 and dilation 2 (appendix D.4). The weights are the same.

    Returns:
        A functional model, float [B, H, W, 3] -> {"c2": ..., "c3": ..., "c4": ..., "c5": ...},
        maps [B, ceil(H / s), ceil(W / s), D] at the strides s = 4, 8, 16, 32; with the small stem
        1, 2, 4, 8; dilated, c5 is at 16, or 4. The average of an undilated c5 over H and W is the
        encoder's representation.

    Raises:
        UserError: the encoder is no ResNet of this package.
    """
    ends = {stage: _last_layer(encoder, stage) for stage in _STAGES}

    def clone(layer):
        config = layer.get_config()
        if dilated_c5 and layer.name.startswith("c5_") and isinstance(layer, keras.layers.Conv2D):
            config["strides"] = (1, 1)
            if config["kernel_size"] == (3, 3):
                config["dilation_rate"] = (2, 2)
        return layer.__class__.from_config(config)

    images = keras.Input((image_size, image_size, 3), name="images")
    copy = keras.models.clone_model(encoder, images, clone)
    copy.set_weights(encoder.get_weights())
    outputs = {stage: copy.get_layer(name).output for stage, name in ends.items()}
    return keras.Model(copy.inputs, outputs, name=f"{encoder.name}_stages")


def _last_layer(encoder, stage) -> str:
    """The name of the layer that ends a stage: the last ReLU of its last block."""
    pattern = re.compile(rf"{stage}_block(\d+)_relu(\d+)")
    names = [layer.name for layer in getattr(encoder, "layers", ())]
    matches = [match for match in map(pattern.fullmatch, names) if match]
    if not matches:
        raise UserError(
            f"the encoder '{getattr(encoder, 'name', encoder)}' has no layers {stage}_block1_relu1 "
            "and so on, which dense tasks take feature maps from; give a ResNet of "
            "byol_tf.networks.resnet."
        )
    return max(matches, key=lambda match: (int(match[1]), int(match[2]))).string
