"""Encoders and heads: ResNet v1 of any depth and width, and the projector/predictor MLP.

Paper: section 3.2 and appendix B. Layer names are part of the interface: `stem_*`,
`c2_block1_conv1`, ..., `c5_*`, `representation`; C2 to C5 are the usual names of the stages with
strides 4, 8, 16 and 32.
"""

from typing import Any

import keras
import tensorflow as tf
from keras import layers

from byol_tf import keras_compat
from byol_tf.errors import UserError

# Numbers of blocks in the stages C2 to C5, and whether they are the three-convolution bottleneck
# (He et al. 2016).
DEPTHS = {
    10: ((1, 1, 1, 1), False),
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
    200: ((3, 24, 36, 3), True),
}
STEM_STRIDES = {"imagenet": 4, "small": 1}


def resnet(
    depth: int = 50,
    width: float = 1,
    image_size: int | tuple[int, int] = 224,
    stem: str = "imagenet",
    zero_init_last_gamma: bool = True,
    name: str | None = None,
) -> keras.Model:
    """Builds a ResNet v1 (stride on the 3x3 convolution) with global average pooling.

    Args:
        depth: 18, 34, 50, 101, 152 or 200; 10 is ResNet-18 with one block per stage.
        width: Factor on every channel count: 1 to 4 in the paper; a fraction (0.25, 0.5) gives a
            network for small machines. 64 · width must be a whole number. Below 0.25, training on a
            CPU with AVX-512 can crash: oneDNN writes past its buffers (uxlfoundation/oneDNN issue
            6035).
        image_size: Side of the square input, or its height and width, in pixels.
        stem: `imagenet` (7x7 of stride 2 and a 3x3 max pool of stride 2) or `small` (one 3x3 of
            stride 1, no pool), the usual choice for images of 32 to 64 pixels.
        zero_init_last_gamma: Whether each residual branch starts at zero (Goyal et al. 2017,
            section 5.1).
        name: Name of the model, by default `resnet{depth}_{width}x`.

    Returns:
        A functional model, float `[B, H, W, 3]` -> float32 `[B, D]`, H and W from `image_size`,
        D = 512 · width for depths up to 34, 2048 · width above.

    Raises:
        UserError: The depth or stem is unknown, the width gives no whole channel count, or the
            image is smaller than the network's total stride.
    """
    if depth not in DEPTHS:
        raise UserError(f"ResNet depth {depth} is unknown; give one of {sorted(DEPTHS)}.")
    if stem not in STEM_STRIDES:
        raise UserError(f"stem '{stem}' is unknown; give one of {sorted(STEM_STRIDES)}.")
    if width <= 0 or 64 * width != int(64 * width):
        raise UserError(
            f"ResNet width {width} gives no whole number of channels; give a multiple of 1/64."
        )
    smallest = STEM_STRIDES[stem] * 8  # C3, C4 and C5 halve the map once each.
    height, width_px = (image_size, image_size) if isinstance(image_size, int) else image_size
    if min(height, width_px) < smallest:
        raise UserError(
            f"image_size {image_size} is too small for the '{stem}' stem, which needs at least "
            f"{smallest} pixels; give larger images"
            + (" or stem='small'." if stem == "imagenet" else ".")
        )

    blocks, bottleneck = DEPTHS[depth]
    block = _bottleneck_block if bottleneck else _basic_block
    channels = int(64 * width)
    images = keras.Input((height, width_px, 3), name="images")
    if stem == "imagenet":
        x = _conv_bn_relu(images, channels, 7, "stem", strides=2)
        x = layers.MaxPool2D(3, strides=2, padding="same", name="stem_pool")(x)
    else:
        x = _conv_bn_relu(images, channels, 3, "stem")
    for stage, count in enumerate(blocks):
        for index in range(count):
            strides = 2 if stage > 0 and index == 0 else 1
            x = block(
                x,
                channels * 2**stage,
                strides,
                zero_init_last_gamma,
                f"c{stage + 2}_block{index + 1}",
            )
    # float32: the representation leaves the mixed-precision part of the network here.
    x = layers.GlobalAveragePooling2D(dtype="float32", name="representation")(x)
    return keras.Model(images, x, name=name or f"resnet{depth}_{width:g}x")


def mlp(hidden_size: int, output_size: int, name: str) -> keras.Sequential:
    """Returns a projector g_θ or predictor q_θ: Dense(bias) -> BatchNorm -> ReLU -> Dense(no bias).

    Its shapes are `[B, ...]` -> `[B, output_size]`; the paper uses 4096 and 256 (section 3.2).

    Args:
        hidden_size: Width of the hidden layer.
        output_size: Width of the output.
        name: Name of the model and prefix of its layers' names.
    """
    return keras.Sequential(
        [
            layers.Dense(hidden_size, name=f"{name}_hidden"),
            BatchNorm(name=f"{name}_bn"),
            layers.ReLU(name=f"{name}_relu"),
            layers.Dense(output_size, use_bias=False, name=f"{name}_output"),
        ],
        name=name,
    )


@keras.saving.register_keras_serializable("byol_tf")
class BatchNorm(keras_compat.BatchNormalization):
    """BatchNorm with decay 0.9 and eps 1e-5, its statistics synchronised over the replicas.

    The layer synchronises if the strategy in scope when it is constructed, loaded or copied has
    several replicas: Keras 2.15 leaves `synchronized` out of `get_config` and so drops it silently.
    On one replica the layer keeps the fused kernel, which Keras's synchronised path does not use.
    """

    def __init__(self, momentum: float = 0.9, epsilon: float = 1e-5, **kwargs: Any):
        kwargs["synchronized"] = tf.distribute.get_strategy().num_replicas_in_sync > 1
        super().__init__(momentum=momentum, epsilon=epsilon, **kwargs)


def synchronize(layer: keras.layers.BatchNormalization) -> None:
    """Makes a BatchNorm that is already built compute its statistics over all replicas."""
    layer.synchronized, layer.fused = True, False  # Keras 2's fused kernel sees one replica.


def _conv(x, channels, kernel_size, strides, name):
    return layers.Conv2D(
        channels,
        kernel_size,
        strides,
        padding="same",
        use_bias=False,
        kernel_initializer=keras.initializers.VarianceScaling(2.0, "fan_out", "truncated_normal"),
        name=name,
    )(x)


def _conv_bn_relu(x, channels, kernel_size, name, strides=1, suffix=""):
    x = _conv(x, channels, kernel_size, strides, f"{name}_conv{suffix}")
    x = BatchNorm(name=f"{name}_bn{suffix}")(x)
    return layers.ReLU(name=f"{name}_relu{suffix}")(x)


def _last_bn(x, zero_gamma, name):
    return BatchNorm(gamma_initializer="zeros" if zero_gamma else "ones", name=name)(x)


def _shortcut(x, channels, strides, name):
    if strides == 1 and x.shape[-1] == channels:
        return x
    x = _conv(x, channels, 1, strides, f"{name}_shortcut_conv")
    return BatchNorm(name=f"{name}_shortcut_bn")(x)


def _basic_block(x, channels, strides, zero_gamma, name):
    branch = _conv_bn_relu(x, channels, 3, name, strides, suffix="1")
    branch = _conv(branch, channels, 3, 1, f"{name}_conv2")
    branch = _last_bn(branch, zero_gamma, f"{name}_bn2")
    x = layers.Add(name=f"{name}_add")([_shortcut(x, channels, strides, name), branch])
    return layers.ReLU(name=f"{name}_relu2")(x)


def _bottleneck_block(x, channels, strides, zero_gamma, name):
    branch = _conv_bn_relu(x, channels, 1, name, suffix="1")
    branch = _conv_bn_relu(branch, channels, 3, name, strides, suffix="2")
    branch = _conv(branch, 4 * channels, 1, 1, f"{name}_conv3")
    branch = _last_bn(branch, zero_gamma, f"{name}_bn3")
    x = layers.Add(name=f"{name}_add")([_shortcut(x, 4 * channels, strides, name), branch])
    return layers.ReLU(name=f"{name}_relu3")(x)


def check_flat(shape: tf.TensorShape | tuple[int | None, ...]) -> int:
    """Returns D of `shape`, the shape of an encoder's output.

    Raises:
        UserError: The shape is not `[B, D]` with D known.
    """
    # Keras gives a list of tuples for a model with several outputs.
    several = not isinstance(shape, (tuple, tf.TensorShape))
    if several or tf.TensorShape(shape).rank != 2 or shape[-1] is None:
        raise UserError(
            f"the encoder's output has the shape {shape}, not [B, D]; end it with global pooling "
            "(in keras.applications: include_top=False, pooling='avg')."
        )
    return shape[-1]
