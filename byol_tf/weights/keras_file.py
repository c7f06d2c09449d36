"""Reads .keras and .weights.h5 files of either Keras, by layer, without running anything of them.

Keras 3 finds no weights in most models that Keras 2 saved, and `load_model` builds whatever a file
names. Both write the same tree, though: `layers/conv2d_1/vars/0`, where a layer goes by its class
and its number among those of that class. A .keras file has the list of layers beside it; a
.weights.h5 has none, and is read by the list of the encoder that it is for.
"""

import contextlib
import json
import re
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import h5py
import keras
import numpy as np

from byol_tf.errors import UserError
from byol_tf.images.preprocessing import Preprocessing
from byol_tf.weights.encoder_weights import EncoderWeights
from byol_tf.weights.keras_model import network_of

_LARGEST_CONFIG = 64 << 20  # Bytes of JSON.


_DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


class _Layer(NamedTuple):
    name: str
    class_name: str
    inside: list["_Layer"]


def read_model(path: str) -> EncoderWeights:
    """Returns the encoder of a .keras file: the model, or `encoder` of a method such as BYOL.

    Raises:
        UserError: It is not such a file, or the encoder has layers that hold layers.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo("config.json").file_size > _LARGEST_CONFIG:
                raise ValueError("its config is too large")
            saved = json.loads(archive.read("config.json"))
            encoder, of_method = saved, "encoder" in saved["config"]
            if of_method:
                encoder = saved["config"]["encoder"]
            listed = _listed(encoder["config"]["layers"])
            with archive.open("model.weights.h5") as member, h5py.File(member, "r") as file:
                kind = _snake_case(encoder["class_name"])
                roots = ["encoder", f"trained/{kind}"] if of_method else [""]
                layers = _read(file, roots, listed, path)
    except UserError:
        raise
    except (*_DAMAGED, zipfile.BadZipFile) as error:
        raise UserError(
            f"'{path}' is not a .keras file with an encoder ({error!r}); give one that "
            "model.save or byol_tf.BYOL.save wrote."
        ) from error
    names = {layer.name for layer in listed}
    network = network_of(names, layers, path)
    kind = f"{saved['class_name']}'s encoder" if of_method else "an encoder"
    method = str(saved["class_name"]).lower() if of_method else "imported"
    size = _image_size(encoder["config"]["layers"][0]["config"])
    preprocessing = Preprocessing(size) if size else None  # The file does not have it.
    return EncoderWeights(path, f"a .keras file of {kind}", layers, network, preprocessing, method)


class WeightsFile(EncoderWeights):
    """A .weights.h5 file: arrays without the layers they belong to."""

    def assign_to(self, encoder: keras.Model) -> None:
        """Sets the weights of the encoder whose `save_weights` wrote the file, or of a method's."""
        listed = _of_encoder(encoder.layers)
        with _opened(self.path) as file:
            roots = ["encoder", "trained/functional", "trained/sequential", ""]
            layers = _read(file, roots, listed, self.path)
        EncoderWeights(self.path, self.source, layers).assign_to(encoder)


def read_weights(path: str) -> WeightsFile:
    """Returns the arrays of a .weights.h5 file.

    Raises:
        UserError: It is not such a file.
    """
    with _opened(path) as file:
        arrays: dict[str, list[np.ndarray]] = {}

        def add(name: str, item: Any) -> None:
            if isinstance(item, h5py.Group) and name.endswith("/vars") and len(item):
                arrays[name.removesuffix("/vars")] = _numbers(item)

        file.visititems(add)
    if not arrays:
        raise UserError(f"'{path}' holds no weights of Keras; give one that save_weights wrote.")
    return WeightsFile(path, "a .weights.h5 file", arrays)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[h5py.File]:
    try:
        with h5py.File(path, "r") as file:
            yield file
    except OSError as error:
        raise UserError(f"'{path}' is not a whole HDF5 file ({error}); save it again.") from error


def _read(
    file: h5py.File, roots: Sequence[str], listed: list[_Layer], path: str
) -> dict[str, list[np.ndarray]]:
    """Returns the arrays of the listed layers, below the first of `roots` that has layers."""
    root = next((file[root] if root else file for root in roots if _has_layers(file, root)), None)
    if root is None:
        raise UserError(f"'{path}' holds no layers of an encoder; give the file of one.")
    layers: dict[str, list[np.ndarray]] = {}
    for name, place in _places(listed, "layers"):
        group = root.get(place)
        if group is None:
            continue
        if any(_weighs(part) for key, part in group.items() if key != "vars"):
            raise UserError(
                f"the layer '{name}' in '{path}' holds layers of its own, which are read by Keras "
                "only; load the file in Python, and give the run or the SavedModel of it."
            )
        if numbers := _numbers(group.get("vars", {})):
            layers[name] = numbers
    return layers


def _has_layers(file: h5py.File, root: str) -> bool:
    return f"{root}/layers" in file


def _weighs(group: Any) -> bool:
    if not isinstance(group, h5py.Group):
        return True
    found: list[str] = []
    group.visititems(lambda name, item: found.append(name) if hasattr(item, "shape") else None)
    return bool(found)


def _numbers(variables: Any) -> list[np.ndarray]:
    return [_array(variables[key]) for key in sorted(variables, key=int)]


def _array(variable: h5py.Dataset) -> np.ndarray:
    # A dataset can claim any size without holding it, or refer to another file.
    if (
        variable.nbytes > variable.file.id.get_filesize()
        or variable.external
        or variable.is_virtual
    ):
        raise UserError(f"'{variable.name}' in the HDF5 file is not an array that Keras wrote.")
    return np.asarray(variable)


def _image_size(config: dict[str, Any]) -> int | None:
    """Returns the side of the square images that an input layer takes, None if it takes others."""
    shape = config.get("batch_shape") or config.get("batch_input_shape") or []
    square = len(shape) == 4 and shape[1] == shape[2] and isinstance(shape[1], int)
    return shape[1] if square else None


def _listed(configs: list[dict[str, Any]]) -> list[_Layer]:
    return [
        _Layer(
            entry["config"]["name"],
            entry["class_name"],
            _listed(entry["config"]["layers"]) if "layers" in entry["config"] else [],
        )
        for entry in configs
    ]


def _of_encoder(layers: Sequence[keras.layers.Layer]) -> list[_Layer]:
    return [
        _Layer(
            layer.name,
            type(layer).__name__,
            _of_encoder(layer.layers) if isinstance(layer, keras.Model) else [],
        )
        for layer in layers
    ]


def _places(layers: list[_Layer], root: str) -> Iterator[tuple[str, str]]:
    """Yields the name of each layer and its place in the tree."""
    counts: dict[str, int] = {}
    for layer in layers:
        kind = _snake_case(layer.class_name)
        number = counts[kind] = counts.get(kind, -1) + 1
        place = f"{root}/{kind}" + (f"_{number}" if number else "")
        if layer.inside:
            yield from _places(layer.inside, f"{place}/layers")
        else:
            yield layer.name, place


def _snake_case(name: str) -> str:
    """Returns the class name as Keras writes it: MaxPooling2D -> max_pooling2d."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()
