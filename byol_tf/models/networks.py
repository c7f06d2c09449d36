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
from byol_tf.models.group_norm import GroupNorm, check_norm, without_batch_norm

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
STEM_STRIDES = {"imagenet": 4, "small": 1, "lightly": 1, "solo-learn": 1}
PADDINGS = ("same", "symmetric")


def resnet(
    depth: int = 50,
    width: float = 1,
    image_size: int | tuple[int, int] = 224,
    stem: str = "imagenet",
    zero_init_last_gamma: bool = True,
    norm: str = "batch",
    padding: str = "same",
    c2_projection: bool = False,
    channels: int = 3,
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
            stride 1, no pool), the usual choice for images of 32 to 64 pixels. For weights from
            there: `lightly` is small without ReLU, which a Sequential of the children of lightly's
            ResNetGenerator leaves out, and `solo-learn` is small with a border of two pixels, as
            that library has it for CIFAR-10.
        zero_init_last_gamma: Whether each residual branch starts at zero (Goyal et al. 2017,
            section 5.1).
        norm: `batch`, or `group`: GroupNorm and weight-standardised convolutions, without batch
            statistics (see `group_norm`).
        padding: What surrounds the input of a layer of stride 2: `same` is TensorFlow's, which pads
            an even side below and to the right only; `symmetric` is PyTorch's, and what weights
            from there need to give the same features.
        c2_projection: Whether the first block has a convolution in its shortcut where the depth
            does not ask for one (18 and 34), as in the authors' code.
        channels: Number of channels C of the images.
        name: Name of the model, by default `resnet{depth}_{width}x`.

    Returns:
        A functional model, float `[B, H, W, C]` -> float32 `[B, D]`, H and W from `image_size`,
        D = 512 · width for depths up to 34, 2048 · width above.

    Raises:
        UserError: The depth, stem, norm or padding is unknown, the width gives no whole channel
            count, or the image is smaller than the network's total stride.
    """
    if depth not in DEPTHS:
        raise UserError(f"ResNet depth {depth} is unknown; give one of {sorted(DEPTHS)}.")
    if stem not in STEM_STRIDES:
        raise UserError(f"stem '{stem}' is unknown; give one of {sorted(STEM_STRIDES)}.")
    if padding not in PADDINGS:
        raise UserError(f"padding '{padding}' is unknown; give one of {sorted(PADDINGS)}.")
    if width <= 0 or 64 * width != int(64 * width):
        raise UserError(
            f"ResNet width {width} gives no whole number of channels; give a multiple of 1/64."
        )
    check_norm(norm)
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
    images = keras.Input((height, width_px, channels), name="images")
    filters = int(64 * width)
    x = images
    if stem == "solo-learn":
        x = layers.ZeroPadding2D(1, name="stem_border")(x)
    if stem == "imagenet":
        x = _conv_bn_relu(x, filters, 7, "stem", 2, padding)
        x, pool_padding = _padded(x, 3, 2, padding, "stem_pool_pad")
        x = layers.MaxPool2D(3, strides=2, padding=pool_padding, name="stem_pool")(x)
    else:
        x = _conv_bn_relu(x, filters, 3, "stem", relu=stem != "lightly")
    for stage, count in enumerate(blocks):
        for index in range(count):
            strides = 2 if stage > 0 and index == 0 else 1
            x = block(
                x,
                filters * 2**stage,
                strides,
                padding,
                zero_init_last_gamma,
                c2_projection and stage == index == 0,
                f"c{stage + 2}_block{index + 1}",
            )
    # float32: the representation leaves the mixed-precision part of the network here.
    x = layers.GlobalAveragePooling2D(dtype="float32", name="representation")(x)
    model = keras.Model(images, x, name=name or f"resnet{depth}_{width:g}x")
    return model if norm == "batch" else without_batch_norm(model)


def mlp(
    hidden_size: int,
    output_size: int,
    name: str,
    num_layers: int = 2,
    norm: str = "batch",
    output_norm: bool = False,
) -> keras.Sequential:
    """Returns a projector g_θ or predictor q_θ: Dense(bias) -> BatchNorm -> ReLU -> Dense(no bias).

    Its shapes are `[B, ...]` -> `[B, output_size]`; the paper uses 4096 and 256 (section 3.2).

    Args:
        hidden_size: Width of the hidden layers.
        output_size: Width of the output.
        name: Name of the model and prefix of its layers' names.
        num_layers: Number of Dense layers, all but the last of them hidden; 1 is a linear map.
        norm: `batch`, or `group` for GroupNorm in place of BatchNorm.
        output_norm: Whether a norm without scale and offset ends it, as in SimSiam's projector.

    Raises:
        UserError: `num_layers` is below 1, or the norm is unknown.
    """
    if num_layers < 1:
        raise UserError(f"the {name} has {num_layers} layers; give 1 or more.")
    normalization, short = (BatchNorm, "bn") if check_norm(norm) == "batch" else (GroupNorm, "gn")
    parts = []
    for number in range(1, num_layers):
        suffix = "" if number == 1 else str(number)
        parts += [
            layers.Dense(hidden_size, name=f"{name}_hidden{suffix}"),
            normalization(name=f"{name}_{short}{suffix}"),
            layers.ReLU(name=f"{name}_relu{suffix}"),
        ]
    parts.append(layers.Dense(output_size, use_bias=False, name=f"{name}_output"))
    if output_norm:
        parts.append(normalization(center=False, scale=False, name=f"{name}_output_{short}"))
    return keras.Sequential(parts, name=name)


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


def _padded(x, kernel_size, strides, padding, name):
    """Returns `x` with the border that the next layer needs, and that layer's own padding."""
    if padding == "same" or strides == 1 or kernel_size == 1:
        return x, "same"  # Both are the same then.
    # Zeros suit the max pool too: its input, after a ReLU, is nowhere below them.
    return layers.ZeroPadding2D(kernel_size // 2, name=name)(x), "valid"


def _conv(x, channels, kernel_size, strides, name, padding="same"):
    x, padding = _padded(x, kernel_size, strides, padding, f"{name}_pad")
    return layers.Conv2D(
        channels,
        kernel_size,
        strides,
        padding=padding,
        use_bias=False,
        kernel_initializer=keras.initializers.VarianceScaling(2.0, "fan_out", "truncated_normal"),
        name=name,
    )(x)


def _conv_bn_relu(x, channels, kernel_size, name, strides=1, padding="same", suffix="", relu=True):
    x = _conv(x, channels, kernel_size, strides, f"{name}_conv{suffix}", padding)
    x = BatchNorm(name=f"{name}_bn{suffix}")(x)
    if not relu:
        return x
    return layers.ReLU(name=f"{name}_relu{suffix}")(x)


def _last_bn(x, zero_gamma, name):
    return BatchNorm(gamma_initializer="zeros" if zero_gamma else "ones", name=name)(x)


def _shortcut(x, channels, strides, project, name):
    if strides == 1 and x.shape[-1] == channels and not project:
        return x
    x = _conv(x, channels, 1, strides, f"{name}_shortcut_conv")
    return BatchNorm(name=f"{name}_shortcut_bn")(x)


def _basic_block(x, channels, strides, padding, zero_gamma, project, name):
    branch = _conv_bn_relu(x, channels, 3, name, strides, padding, suffix="1")
    branch = _conv(branch, channels, 3, 1, f"{name}_conv2")
    branch = _last_bn(branch, zero_gamma, f"{name}_bn2")
    x = layers.Add(name=f"{name}_add")([_shortcut(x, channels, strides, project, name), branch])
    return layers.ReLU(name=f"{name}_relu2")(x)


def _bottleneck_block(x, channels, strides, padding, zero_gamma, project, name):
    branch = _conv_bn_relu(x, channels, 1, name, suffix="1")
    branch = _conv_bn_relu(branch, channels, 3, name, strides, padding, suffix="2")
    branch = _conv(branch, 4 * channels, 1, 1, f"{name}_conv3")
    branch = _last_bn(branch, zero_gamma, f"{name}_bn3")
    x = layers.Add(name=f"{name}_add")([_shortcut(x, 4 * channels, strides, project, name), branch])
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
