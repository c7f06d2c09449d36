"""Encoders in haiku with the modules and names of DeepMind's byol (utils/networks.py).

Their block groups are haiku's own; only the numbers of channels are free here.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import dill
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import tensorflow as tf

BN = {"decay_rate": 0.9, "eps": 1e-5, "create_scale": True, "create_offset": True}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class _ByolExperimentState(NamedTuple):
    online_params: Any
    target_params: Any
    online_state: Any
    target_state: Any
    opt_state: Any


class _ResNet(hk.Module):
    """Named by its class, as theirs: res_net18, res_net50."""

    blocks: Sequence[int] = (2, 2, 2, 2)
    bottleneck = False

    def __init__(self, base: int):
        super().__init__()
        self.base = base
        self.initial_conv = hk.Conv2D(base, 7, 2, with_bias=False, name="initial_conv")
        self.initial_batchnorm = hk.BatchNorm(name="initial_batchnorm", **BN)
        self.groups = [
            hk.nets.ResNet.BlockGroup(
                channels=base * 2**i * (4 if self.bottleneck else 1),
                num_blocks=count,
                stride=1 if i == 0 else 2,
                bn_config=BN,
                resnet_v2=False,
                bottleneck=self.bottleneck,
                use_projection=True,
                name=f"block_group_{i}",
            )
            for i, count in enumerate(self.blocks)
        ]

    def __call__(self, images, is_training):
        out = jax.nn.relu(self.initial_batchnorm(self.initial_conv(images), is_training))
        out = hk.max_pool(out, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")
        for group in self.groups:
            out = group(out, is_training, False)
        return jnp.mean(out, axis=[1, 2])


class ResNet18(_ResNet):
    pass


class ResNet50(_ResNet):
    blocks = (3, 4, 6, 3)
    bottleneck = True


def _mlp(inputs, name, is_training):
    class MLP(hk.Module):
        def __call__(self, out):
            out = hk.BatchNorm(**BN)(hk.Linear(8)(out), is_training)
            return hk.Linear(4, with_bias=False)(jax.nn.relu(out))

    return MLP(name=name)(inputs)


@dataclasses.dataclass
class Encoder:
    """A trained-looking encoder: `online` are the parameters and the state of all modules."""

    transformed: hk.TransformedWithState
    params: dict
    state: dict

    def embedding(self, images: np.ndarray) -> np.ndarray:
        (embedding, _), _ = self.transformed.apply(self.params, self.state, images, False)
        return np.asarray(embedding)

    def save(self, path: pathlib.Path) -> None:
        """Writes a checkpoint as their Checkpointer does: dill, protocol 2."""
        target = jax.tree_util.tree_map(lambda x: x * 0 + 7, (self.params, self.state))
        state = _ByolExperimentState(self.params, target[0], self.state, target[1], {"mu": 1.0})
        with open(path, "wb") as file:
            data = {"experiment_state": state, "step": 9, "rng": jax.random.PRNGKey(3)}
            dill.dump(data, file, protocol=2)


def drawn(network: type[_ResNet], base: int, images: np.ndarray, seed: int = 0) -> Encoder:
    """An encoder whose scales, offsets and averages are neither 0 nor 1."""

    def forward(images, is_training):
        embedding = network(base)(images, is_training)
        prediction = _mlp(_mlp(embedding, "projector", is_training), "predictor", is_training)
        hk.Linear(10, name="classifier")(embedding)
        return embedding, prediction

    transformed = hk.without_apply_rng(hk.transform_with_state(forward))
    params, state = transformed.init(jax.random.PRNGKey(seed), images, True)
    rng = np.random.default_rng(seed)

    def shifted(array):
        return np.asarray(array * rng.uniform(0.5, 1.5, array.shape), np.float32)

    params = {
        module: {
            name: shifted(array) + (0.1 if name == "offset" else 0) if name != "w" else array
            for name, array in arrays.items()
        }
        for module, arrays in params.items()
    }
    for _ in range(3):  # The averages move from 0, so `hidden` and `average` differ.
        noisy = images + rng.normal(0, 0.1, images.shape).astype(np.float32)
        _, state = transformed.apply(params, state, noisy, True)
    return Encoder(transformed, *(jax.tree_util.tree_map(np.asarray, x) for x in (params, state)))


def preprocessed(files: Sequence[pathlib.Path], size: int = 224) -> np.ndarray:
    """Images as in their utils/dataset.py: centre crop, bicubic, clip, normalise."""
    images = []
    for file in files:
        image = tf.io.decode_jpeg(file.read_bytes(), channels=3, dct_method="INTEGER_ACCURATE")
        height, width, _ = image.shape
        side = int(0.875 * min(height, width))
        top, left = (height - side + 1) // 2, (width - side + 1) // 2
        crop = tf.image.crop_to_bounding_box(image, top, left, side, side)
        resized = tf.image.resize([crop], [size, size], tf.image.ResizeMethod.BICUBIC)[0]
        images.append((np.clip(resized / 255.0, 0, 1) - MEAN) / STD)
    return np.stack(images).astype(np.float32)
