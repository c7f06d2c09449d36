"""The weights of an encoder by layer, whatever file they came from, and loading them into one."""

import dataclasses
import functools
import hashlib
from typing import Any

import keras
import numpy as np

from byol_tf.errors import UserError
from byol_tf.images.preprocessing import Preprocessing


@dataclasses.dataclass(frozen=True)
class EncoderWeights:
    """The weights of an encoder.

    Attributes:
        path: File or folder they are from.
        source: What it is, for messages: "a PyTorch state dict (torchvision's names)".
        layers: Arrays by layer, in the order of Keras: kernel; gamma, beta, mean, variance.
        encoder: Arguments of `networks.resnet` for the network they are of, without the image size;
            None if they are of another architecture.
        preprocessing: Preprocessing of the images they were trained with; None if unknown.
        method: Name of the method they were trained with, as in a config; "imported" if unknown.
    """

    path: str
    source: str
    layers: dict[str, list[np.ndarray]]
    encoder: dict[str, Any] | None = None
    preprocessing: Preprocessing | None = None
    method: str = "imported"

    @functools.cached_property
    def fingerprint(self) -> str:
        """Twelve hex digits that identify the numbers, not the file's format."""
        digest = hashlib.sha256()
        for name in sorted(self.layers):
            digest.update(name.encode())
            for array in self.layers[name]:
                digest.update(np.ascontiguousarray(array, np.float32).tobytes())
        return digest.hexdigest()[:12]

    def describe(self) -> dict[str, str]:
        """Returns what a run or model card records of the weights."""
        return {"from": self.path, "source": self.source, "fingerprint": self.fingerprint}

    def assign_to(self, encoder: keras.Model) -> None:
        """Sets the weights of a built encoder of the same architecture.

        Raises:
            UserError: It has another architecture; the sentence names the first layer that differs.
        """
        layers = weighted_layers(encoder)
        arrays = self.layers
        if arrays.keys() != layers.keys() and len(arrays) == len(layers) and self.encoder is None:
            # Keras numbers the layers that have no name of their own over a whole session.
            arrays = dict(zip(layers, arrays.values(), strict=True))
        here, there = _channels(layers, arrays)
        if here == encoder.input_shape[-1] != there:
            raise UserError(
                f"the weights in '{self.path}' are for images of {there} channels, and the encoder "
                f"takes {here}; give --config.channels={there}, or weights for {here}."
            )
        difference = _first_difference(layers, arrays)
        if difference:
            raise UserError(
                f"the weights in '{self.path}' are of another architecture than the encoder "
                f"'{encoder.name}': {difference}; {self._remedy()}."
            )
        for name, layer in layers.items():
            layer.set_weights(arrays[name])

    def check_same_network(self, encoder: dict[str, Any]) -> None:
        """Compares what layers do not show: where they pad.

        Args:
            encoder: Fields of `config.encoder`.

        Raises:
            UserError: The config's encoder pads otherwise, which changes the features.
        """
        for field in ("stem", "padding"):
            wanted = (self.encoder or {}).get(field)
            given = encoder.get(field, wanted)
            # Another stem kernel is a layer that differs, and named there.
            kernels = {"imagenet" if stem == "imagenet" else "small" for stem in (wanted, given)}
            if wanted != given and not (field == "stem" and len(kernels) == 2):
                raise UserError(
                    f"the weights in '{self.path}' are of a network with {field} '{wanted}', with "
                    f"'{given}' the same weights give other features; {self._remedy()}."
                )

    def _remedy(self) -> str:
        if self.encoder is None:
            return "give weights that were trained with it"
        flags = " ".join(f"--config.encoder.{name}={value}" for name, value in self.encoder.items())
        return f"give {flags}"


def weighted_layers(model: keras.Model) -> dict[str, keras.layers.Layer]:
    """Returns the layers of a model that have weights, by name, also those of models inside it.

    Two layers of the same name, of two models inside, are told apart by the model's name.
    """
    found: dict[str, keras.layers.Layer] = {}
    for layer in model.layers:
        inner = weighted_layers(layer) if isinstance(layer, keras.Model) else {layer.name: layer}
        for name, part in inner.items():
            if part.weights:
                found[f"{layer.name}/{name}" if name in found else name] = part
    return found


def _channels(
    layers: dict[str, keras.layers.Layer], arrays: dict[str, list[np.ndarray]]
) -> tuple[int | None, int | None]:
    """Returns the input channels of the encoder's first convolution, in it and in the weights.

    Both are None where the weights have no convolution of that name.
    """
    for name, layer in layers.items():
        if any(len(weight.shape) == 4 for weight in layer.weights):
            found = [array.shape[2] for array in arrays.get(name, []) if array.ndim == 4]
            return (int(layer.weights[0].shape[2]), int(found[0])) if found else (None, None)
    return None, None


def _first_difference(
    layers: dict[str, keras.layers.Layer], arrays: dict[str, list[np.ndarray]]
) -> str | None:
    for name, layer in layers.items():
        wanted = [tuple(weight.shape) for weight in layer.weights]
        if name not in arrays:
            return f"they have no layer '{name}'"
        found = [array.shape for array in arrays[name]]
        if found != wanted:
            return f"the layer '{name}' has {_shapes(found)} there and {_shapes(wanted)} here"
    extra = next((name for name in arrays if name not in layers), None)
    return f"the encoder has no layer '{extra}'" if extra else None


def _shapes(shapes: list[tuple[int, ...]]) -> str:
    return " ".join("x".join(map(str, shape)) or "1" for shape in shapes) or "nothing"
