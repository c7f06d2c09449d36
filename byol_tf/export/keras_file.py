"""Exports an encoder as a `.keras` file, for training on and for Keras users without byol_tf.

| input | output |
|---|---|
| preprocessed images float32 `[B, S, S, C]` | float32 `[B, D]` |

`keras.models.load_model` needs nothing of byol_tf: its BatchNorm, which follows the strategy it is
made under and calls TensorFlow's fused kernel, becomes Keras's own. Keras 3 loads what Keras 2 has
written here; Keras 2 does not load a file of Keras 3.
"""

import json
import os
import pathlib
import tempfile
import zipfile
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from byol_tf.export.frozen import (
    check_equal,
    check_path,
    compare,
    freeze,
    pictures,
    sizing,
)
from byol_tf.export.publish import publish_file
from byol_tf.export.rebuilt import rebuilt
from byol_tf.images.preprocessing import Preprocessing

_BATCH_NORM = "byol_tf>BatchNorm"  # models.networks.BatchNorm


def save_keras(
    encoder: keras.Model,
    path: str | os.PathLike,
    *,
    preprocessing: Preprocessing,
    images: np.ndarray | None = None,
    metadata: dict[str, Any] | None = None,
) -> None:
    """Writes the encoder as a Keras file in float32, and its model card beside it.

    They appear only after the file is loaded and its embeddings equal the encoder's.

    Args:
        encoder: Keras model `[B, S, S, C]` -> `[B, D]`.
        path: Path of the new file, which ends with .keras.
        preprocessing: Preprocessing of its images, which the card describes.
        images: Decoded images `[N, H, W, C]` to compare on, beside drawn ones.
        metadata: Additional entries of the model card.

    Raises:
        UserError: A path is bad; the encoder cannot be rebuilt from its config.
    """
    check_path(path, ".keras")
    frozen = freeze(encoder, preprocessing, metadata)
    with tempfile.TemporaryDirectory() as folder:
        saved, file = (pathlib.Path(folder) / name for name in ("saved.keras", "encoder.keras"))
        rebuilt(frozen.model, _plain, "with Keras's own layers").save(saved)
        registered = _for_both_keras(saved, file)
        loaded = keras.models.load_model(file, compile=False)
        content = file.read_bytes()
    batches = pictures(preprocessing) + ([] if images is None else [*images[:, np.newaxis]])
    outputs, expected = compare(
        frozen,
        tf.identity,
        lambda batch: loaded(batch, training=False).numpy(),
        [preprocessing(batch).numpy() for batch in batches],
    )
    card = {
        "format": "keras",
        "input": f"float32 [B, S, S, C], {frozen.pixels}, {sizing(preprocessing)}, divided by "
        f"{2**preprocessing.bit_depth - 1}, clipped to [0, 1], minus `mean`, divided by `std`",
        "output": "float32 [B, D]",
        "compared": check_equal(outputs, expected, "Keras"),
        "classes_to_register": sorted(registered),
        "versions": frozen.card["versions"] | {"keras": keras.__version__},
    }
    publish_file(content, path, frozen.card | card)


def _plain(config: dict) -> dict:
    """Returns the config of a layer, with Keras's BatchNormalization for byol_tf's."""
    if config.get("registered_name") != _BATCH_NORM:
        return config
    own = {"module": "keras.layers", "class_name": "BatchNormalization", "registered_name": None}
    return config | own


def _for_both_keras(file: pathlib.Path, target: pathlib.Path) -> set[str]:
    """Copies a `.keras` file to one that Keras 3 loads even if Keras 2 wrote it.

    Keras 3 does not know Keras 2's module of functional models, nor an axis in a list.

    Returns:
        The names of the classes in it that are not Keras's own.
    """
    registered = set()

    def convert(config: Any) -> Any:
        if isinstance(config, list):
            return [convert(value) for value in config]
        if not isinstance(config, dict):
            return config
        config = {key: convert(value) for key, value in config.items()}
        name, module = config.get("registered_name"), config.get("module") or ""
        if not module.startswith("keras"):
            registered.update([name] if name else [])
        elif config["class_name"] == "Functional":
            config |= {"module": "keras.models", "class_name": "Model", "registered_name": None}
        elif config["class_name"] == "BatchNormalization":
            axis = config["config"]["axis"]
            config["config"]["axis"] = axis[0] if isinstance(axis, list) else axis
        return config

    with zipfile.ZipFile(file) as source, zipfile.ZipFile(target, "w") as copy:
        for name in source.namelist():
            content = source.read(name)
            if name == "config.json":
                content = json.dumps(convert(json.loads(content))).encode()
            copy.writestr(name, content)
    return registered
