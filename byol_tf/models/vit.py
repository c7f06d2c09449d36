"""A plain Vision Transformer with what keeps it stable without labels.

Pre-norm blocks (Dosovitskiy et al. 2021, arXiv 2010.11929) with the fixed 2-D sine-cosine position
embedding, the frozen random patch projection and the initialisation of MoCo v3 (Chen et al. 2021,
arXiv 2104.02057, sections 4.2 and 5.1), and the mean of the tokens instead of a class token (Beyer
et al. 2022, arXiv 2205.01580). All weights of rank 1 are biases and normalisation parameters, as
optimizers assume that leave them out of weight decay.

Layer names are part of the interface: `patches`, `block1_norm1`, `block1_qkv`, `block1_projection`,
`block1_norm2`, `block1_mlp1`, `block1_mlp2`, ..., `norm`, `representation`.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from byol_tf.errors import UserError


def vit(
    image_size: int | tuple[int, int] = 224,
    patch_size: int = 16,
    width: int = 384,
    depth: int = 12,
    heads: int = 12,
    frozen_patches: bool = True,
    channels: int = 3,
    name: str | None = None,
) -> keras.Model:
    """Builds a Vision Transformer; the defaults are MoCo v3's ViT-S/16.

    Args:
        image_size: Side of the square input, or its height and width, in pixels.
        patch_size: Side of a patch, in pixels; divides the image.
        width: Number of channels D of a token, a multiple of 4 and of `heads`.
        depth: Number of blocks.
        heads: Number of attention heads.
        frozen_patches: Whether the patch projection stays as drawn. Trained, it is where MoCo v3
            saw its instability begin.
        channels: Number of channels C of the images.
        name: Name of the model, by default `vit_{width}x{depth}_{patch_size}`.

    Returns:
        A functional model, float `[B, H, W, C]` -> float32 `[B, D]`.

    Raises:
        UserError: The image cannot be cut into such patches, or the width into such heads.
    """
    height, width_px = (image_size, image_size) if isinstance(image_size, int) else image_size
    if patch_size < 1 or height % patch_size or width_px % patch_size:
        raise UserError(
            f"image_size {image_size} cannot be cut into patches of {patch_size} pixels; give a "
            "multiple, or another patch_size."
        )
    if heads < 1 or width < 4 or width % heads or width % 4:
        raise UserError(
            f"a ViT of width {width} and {heads} heads cannot be built; give a width that is a "
            "multiple of 4 and of heads."
        )
    if depth < 1:
        raise UserError(f"a ViT of depth {depth} has no blocks; give 1 or more.")
    images = keras.Input((height, width_px, channels), name="images")
    x = layers.Conv2D(
        width,
        patch_size,
        strides=patch_size,
        kernel_initializer=_uniform(channels * patch_size**2, width),
        trainable=not frozen_patches,
        name="patches",
    )(images)
    x = layers.Reshape((-1, width), name="tokens")(x)  # [B, N, D]
    x = AddPositions((height // patch_size, width_px // patch_size), name="positions")(x)
    for index in range(1, depth + 1):
        x = _block(x, width, heads, f"block{index}")
    x = layers.LayerNormalization(epsilon=1e-6, name="norm")(x)
    # float32: the representation leaves the mixed-precision part of the network here.
    x = layers.GlobalAveragePooling1D(dtype="float32", name="representation")(x)
    return keras.Model(images, x, name=name or f"vit_{width}x{depth}_{patch_size}")


def _block(x, width, heads, name):
    branch = layers.LayerNormalization(epsilon=1e-6, name=f"{name}_norm1")(x)
    branch = layers.Dense(3 * width, kernel_initializer=_uniform(width, width), name=f"{name}_qkv")(
        branch
    )
    branch = SelfAttention(heads, name=f"{name}_attention")(branch)
    branch = layers.Dense(width, name=f"{name}_projection")(branch)
    x = layers.Add(name=f"{name}_add1")([x, branch])
    branch = layers.LayerNormalization(epsilon=1e-6, name=f"{name}_norm2")(x)
    branch = layers.Dense(4 * width, activation="gelu", name=f"{name}_mlp1")(branch)
    branch = layers.Dense(width, name=f"{name}_mlp2")(branch)
    return layers.Add(name=f"{name}_add2")([x, branch])


def _uniform(fan_in: int, fan_out: int) -> keras.initializers.Initializer:
    """Returns Glorot's uniform initialisation of one matrix; q, k and v are three, not one."""
    limit = (6 / (fan_in + fan_out)) ** 0.5
    return keras.initializers.RandomUniform(-limit, limit)


@keras.saving.register_keras_serializable("byol_tf")
class SelfAttention(layers.Layer):
    """Attention of several heads to the tokens themselves, without weights.

    For the queries, keys and values of d channels of each head: softmax(q kᵀ / √d) v. Shapes:
    `[B, N, 3 D]` -> `[B, N, D]`.

    Args:
        heads: Number of heads; divides D.
        **kwargs: Arguments of `keras.layers.Layer`.
    """

    def __init__(self, heads: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.heads = heads

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the attended values."""
        batch, tokens, channels = tf.shape(inputs)[0], inputs.shape[1], inputs.shape[2] // 3
        split = tf.reshape(inputs, [batch, tokens, 3, self.heads, channels // self.heads])
        query, key, value = tf.unstack(tf.transpose(split, [2, 0, 3, 1, 4]))  # [B, heads, N, d]
        scores = tf.matmul(query * (channels // self.heads) ** -0.5, key, transpose_b=True)
        weights = tf.nn.softmax(tf.cast(scores, tf.float32))  # Half precision is too coarse.
        attended = tf.matmul(tf.cast(weights, value.dtype), value)
        return tf.reshape(tf.transpose(attended, [0, 2, 1, 3]), [batch, tokens, channels])

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """Returns the shape of the values."""
        return (*input_shape[:-1], input_shape[-1] // 3)

    def get_config(self) -> dict:
        """Returns the constructor's arguments as plain data."""
        return super().get_config() | {"heads": self.heads}


@keras.saving.register_keras_serializable("byol_tf")
class AddPositions(layers.Layer):
    """Adds the fixed 2-D sine-cosine position embedding to tokens `[B, h w, D]`.

    A quarter of the channels each: sin and cos of the column, sin and cos of the row, of the
    frequencies 10000^(-4 i / D).

    Args:
        grid: Number of patches (h, w) of an image.
        **kwargs: Arguments of `keras.layers.Layer`.
    """

    def __init__(self, grid: tuple[int, int], **kwargs: Any):
        super().__init__(**kwargs)
        self.grid = tuple(grid)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the tokens with their positions."""
        return inputs + tf.constant(self._embedding(inputs.shape[-1]), inputs.dtype)

    def _embedding(self, channels: int) -> np.ndarray:
        rows, columns = np.mgrid[: self.grid[0], : self.grid[1]].reshape(2, -1, 1)
        frequencies = 10_000.0 ** (-np.arange(channels // 4) / (channels // 4))
        angles = (columns * frequencies, rows * frequencies)
        return np.concatenate([f(angle) for angle in angles for f in (np.sin, np.cos)], axis=-1)

    def get_config(self) -> dict:
        """Returns the constructor's arguments as plain data."""
        return super().get_config() | {"grid": self.grid}
