"""Encoders as a user would write them, for `config.encoder.name`."""

import keras


def tiny(image_size, channels=16, blocks=1):
    """Strided convolutions with Keras's own BatchNorm, global pooling."""
    encoder = keras.Sequential([keras.Input((image_size, image_size, 3))])
    for _ in range(blocks):
        encoder.add(keras.layers.Conv2D(channels, 3, 2, use_bias=False))
        encoder.add(keras.layers.BatchNormalization())
        encoder.add(keras.layers.ReLU())
    encoder.add(keras.layers.GlobalAveragePooling2D())
    return encoder


def mixed(image_size):
    """Grouped convolutions, GroupNorm, LayerNorm, GELU."""
    return keras.Sequential(
        [
            keras.Input((image_size, image_size, 3)),
            keras.layers.Conv2D(12, 3, groups=3, padding="same"),
            keras.layers.GroupNormalization(groups=3),
            keras.layers.LayerNormalization(),
            keras.layers.Activation("gelu"),
            keras.layers.GlobalAveragePooling2D(),
        ]
    )


def maps(image_size):
    """Ends in feature maps."""
    return keras.Sequential([keras.Input((image_size, image_size, 3)), keras.layers.Conv2D(4, 3)])


def without_size():
    """Takes no image_size."""
    return tiny(32)


def another_size(image_size):
    """Ignores the size it is given."""
    return tiny(image_size // 2)


def weights_only(image_size):
    """Returns no model."""
    return [image_size]


def impossible(image_size):
    """Fails in Keras."""
    return keras.Sequential([keras.Input((image_size, image_size, 3)), keras.layers.Dense(-1)])
