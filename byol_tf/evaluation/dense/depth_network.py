"""The depth network of Laina et al. 2016 (arXiv 1606.00373) and its loss, as in appendix D.6."""

import math
from collections.abc import Sequence

import keras
import tensorflow as tf
from keras import layers

from byol_tf.errors import UserError
from byol_tf.models.networks import BatchNorm
from byol_tf.models.stages import stage_outputs


def build_depth_network(encoder: keras.Model, filters: Sequence[int]) -> keras.Model:
    """c5, a 1x1 convolution, up-projection blocks and a 3x3 convolution to one channel.

    There are as many blocks as make a map of half the image's side, as in the paper: four for the
    stride 32 of c5. The small stem, whose c5 has the stride 8, takes the first two.

    Args:
        encoder: as `stages.stage_outputs` takes it; its weights are copied.
        filters: of the blocks; the paper's are 512, 256, 128, 64.

    Returns:
        float32 [B, H, W, 3] -> depth float32 [B, H, W], metres, resized bilinearly.

    Raises:
        UserError: fewer filters than blocks.
    """
    stages = stage_outputs(encoder)
    probe = 256  # Any multiple of the strides tells them.
    stride = probe // stages.compute_output_shape((None, probe, probe, 3))["c5"][1]
    blocks = int(math.log2(stride)) - 1
    if len(filters) < blocks:
        raise UserError(
            f"depth.filters has {len(filters)} values, and an encoder of stride {stride} takes "
            f"{blocks} blocks; give one for each."
        )
    x = _conv(2 * filters[0], 1, "depth_reduce")(stages.output["c5"])
    x = BatchNorm(name="depth_reduce_bn")(x)
    for index, count in enumerate(filters[:blocks]):
        x = up_projection(x, count, f"depth_up{index + 1}")
    x = layers.Conv2D(1, 3, padding="same", name="depth")(x)
    x = tf.image.resize(x, tf.shape(stages.input)[1:3])
    return keras.Model(stages.input, x[..., 0], name="depth_network")


def up_projection(x: tf.Tensor, filters: int, name: str) -> tf.Tensor:
    """The up-projection block: [B, H, W, D] -> [B, 2H, 2W, filters].

    It is the fast one of Laina et al. (their section 3.2): equal to unpooling with zeros and a 5x5
    convolution, without multiplying the zeros.
    """
    branch = _unpool_and_conv(x, filters, f"{name}_a")
    branch = layers.ReLU(name=f"{name}_relu1")(BatchNorm(name=f"{name}_bn1")(branch))
    branch = BatchNorm(name=f"{name}_bn2")(_conv(filters, 3, f"{name}_conv")(branch))
    projection = BatchNorm(name=f"{name}_bn3")(_unpool_and_conv(x, filters, f"{name}_b"))
    return layers.ReLU(name=f"{name}_relu2")(layers.Add(name=f"{name}_add")([branch, projection]))


def berhu_loss(truth: tf.Tensor, predicted: tf.Tensor) -> tf.Tensor:
    """The reverse Huber loss, eq. 1 and 2 of Laina et al.: the mean over the known pixels.

    |x| where it is at most c, (x² + c²) / 2c above; c is a fifth of the batch's largest |x|, and a
    constant for the gradient.

    Args:
        truth: float32 [B, H, W], metres, 0 where unknown.
        predicted: float32 [B, H, W].
    """
    known = truth > 0
    residual = tf.where(known, tf.abs(predicted - truth), 0.0)
    c = tf.stop_gradient(0.2 * tf.reduce_max(residual))
    squared = tf.math.divide_no_nan(tf.square(residual) + tf.square(c), 2.0 * c)
    losses = tf.where(residual <= c, residual, squared)  # An unknown pixel's is 0.
    return tf.math.divide_no_nan(
        tf.reduce_sum(tf.where(known, losses, 0.0)), tf.reduce_sum(tf.cast(known, tf.float32))
    )


def _conv(filters: int, kernel_size, name: str) -> layers.Conv2D:
    return layers.Conv2D(
        filters,
        kernel_size,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=name,
    )


def _unpool_and_conv(x, filters, name):
    # Of the 5x5 kernel, an output at an even row meets rows 0, 2, 4, at an odd row 1 and 3, the
    # others lie on zeros; columns likewise. "same" pads 3 taps on both sides, 2 taps at the end.
    interleaved = [
        _conv(filters, size, f"{name}_{size[0]}x{size[1]}")(x)
        for size in ((3, 3), (3, 2), (2, 3), (2, 2))
    ]
    return tf.nn.depth_to_space(layers.Concatenate(name=f"{name}_concat")(interleaved), 2)
