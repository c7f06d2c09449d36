"""The depth network of Laina et al. 2016 (arXiv 1606.00373) and its loss, as in appendix D.6."""

import math
from collections.abc import Sequence

import keras
import tensorflow as tf
from keras import layers

from byol_tf.errors import UserError
from byol_tf.models.networks import BatchNorm
from byol_tf.models.stages import resized_to, stage_outputs


def build_depth_network(encoder: keras.Model, filters: Sequence[int]) -> keras.Model:
    """Builds c5, a 1x1 convolution, up-projection blocks and a 3x3 convolution to one channel.

    Blocks are added until the map has half the image's side, as in the paper: four for c5 at stride
    32. The small stem, whose c5 has stride 8, takes the first two.

    Args:
        encoder: Encoder as `stages.stage_outputs` takes it; its weights are copied.
        filters: Channels of the blocks; the paper's are 512, 256, 128, 64.

    Returns:
        A model float32 `[B, H, W, C]` -> depth float32 `[B, H, W]`, in metres, resized bilinearly.

    Raises:
        UserError: There are fewer filters than blocks.
    """
    stages = stage_outputs(encoder)
    probe = 256  # Any multiple of the strides works.
    stride = (
        probe // stages.compute_output_shape((None, probe, probe, encoder.input_shape[-1]))["c5"][1]
    )
    blocks = int(math.log2(stride)) - 1
    if len(filters) < blocks:
        raise UserError(
            f"depth.filters has {len(filters)} values, but an encoder of stride {stride} needs "
            f"{blocks} blocks; give one for each."
        )
    x = _conv(2 * filters[0], 1, "depth_reduce")(stages.output["c5"])
    x = BatchNorm(name="depth_reduce_bn")(x)
    for index, count in enumerate(filters[:blocks]):
        x = up_projection(x, count, f"depth_up{index + 1}")
    x = layers.Conv2D(1, 3, padding="same", name="depth")(x)
    (images,) = stages.inputs
    return keras.Model(images, resized_to(images, x)[..., 0], name="depth_network")


def up_projection(x: tf.Tensor, filters: int, name: str) -> tf.Tensor:
    """Applies an up-projection block: `[B, H, W, D]` -> `[B, 2H, 2W, filters]`.

    It is the fast variant of Laina et al. (their section 3.2): equal to unpooling with zeros and a
    5x5 convolution, but without multiplying the zeros.
    """
    branch = _unpool_and_conv(x, filters, f"{name}_a")
    branch = layers.ReLU(name=f"{name}_relu1")(BatchNorm(name=f"{name}_bn1")(branch))
    branch = BatchNorm(name=f"{name}_bn2")(_conv(filters, 3, f"{name}_conv")(branch))
    projection = BatchNorm(name=f"{name}_bn3")(_unpool_and_conv(x, filters, f"{name}_b"))
    return layers.ReLU(name=f"{name}_relu2")(layers.Add(name=f"{name}_add")([branch, projection]))


def berhu_loss(truth: tf.Tensor, predicted: tf.Tensor) -> tf.Tensor:
    """Computes the mean reverse Huber loss of the known pixels (Laina et al., eq. 1 and 2).

    The loss is |x| up to c and (x² + c²) / 2c above it; c is a fifth of the batch's largest |x| and
    a constant for the gradient.

    Args:
        truth: True depth, float32 `[B, H, W]`, in metres, 0 where unknown.
        predicted: Predicted depth, float32 `[B, H, W]`, in metres.
    """
    known = truth > 0
    residual = tf.where(known, tf.abs(predicted - truth), 0.0)
    c = tf.stop_gradient(0.2 * tf.reduce_max(residual))
    squared = tf.math.divide_no_nan(tf.square(residual) + tf.square(c), 2.0 * c)
    losses = tf.where(residual <= c, residual, squared)  # 0 at unknown pixels.
    return tf.math.divide_no_nan(
        tf.reduce_sum(tf.where(known, losses, 0.0)), tf.reduce_sum(tf.cast(known, tf.float32))
    )


def _conv(filters: int, kernel_size: int | tuple[int, int], name: str) -> layers.Conv2D:
    return layers.Conv2D(
        filters,
        kernel_size,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=name,
    )


def _unpool_and_conv(x: tf.Tensor, filters: int, name: str) -> tf.Tensor:
    # An output in an even row uses rows 0, 2 and 4 of the 5x5 kernel, in an odd row rows 1 and 3;
    # the other rows fall on zeros. The same holds for columns. "same" pads 3 taps on both sides, 2
    # taps at the end.
    interleaved = [
        _conv(filters, size, f"{name}_{size[0]}x{size[1]}")(x)
        for size in ((3, 3), (3, 2), (2, 3), (2, 2))
    ]
    channels = layers.Concatenate(name=f"{name}_concat")(interleaved)
    # Keras 3 takes functions of TensorFlow in layers only.
    return layers.Lambda(lambda x: tf.nn.depth_to_space(x, 2), name=f"{name}_space")(channels)
