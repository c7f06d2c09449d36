"""A SavedModel in this process in the place of an endpoint. Imports TensorFlow, when it is made."""

import hashlib
import os

import numpy as np

from serving.client.transport import Batch, EmbeddingError, Target, checked
from serving.errors import UserError


class SavedModelTransport:
    """A `Transport` that travels nowhere.

    Args:
        path: of the SavedModel's folder, MODEL/VERSION, or MODEL for its highest version.

    Attributes:
        path: of the version.

    Raises:
        UserError: there is no SavedModel, or it lacks the signatures of an encoder.
    """

    def __init__(self, path: str):
        path = _newest(path)
        import tensorflow as tf

        self._tf = tf
        self.path = path
        try:
            self._model = tf.saved_model.load(path)
        except (
            Exception
        ) as error:  # Whatever is wrong with it, TensorFlow's words are the ones there are.
            raise UserError(
                f"'{path}' does not load: {str(error).strip().splitlines()[0]}."
            ) from error
        missing = {"serving_default", "pixels"} - set(self._model.signatures)
        if missing:
            raise UserError(
                f"'{path}' has no signature {sorted(missing)}; give a model of byol-export."
            )

    def predict(self, target: Target, batch: Batch, timeout: float) -> np.ndarray:
        """See `Transport`; the timeout is not kept."""
        del timeout
        signature, name = batch.signature
        values = (
            self._tf.constant(batch.values) if batch.are_files else self._tf.stack(batch.values)
        )
        try:
            embeddings = self._model.signatures[signature](**{name: values})["embedding"].numpy()
        except self._tf.errors.OpError as error:
            # What went wrong stands right before the nodes it went through, after where they were defined.
            text = error.message.partition("\n\t [[")[0].strip().splitlines()[-1]
            raise EmbeddingError(self._code(error), f"{target}: {text}") from error
        return checked(embeddings, batch, self.path)

    def _code(self, error) -> str:
        return (
            "INVALID_ARGUMENT"
            if isinstance(error, self._tf.errors.InvalidArgumentError)
            else "INTERNAL"
        )

    def version(self, target: Target, timeout: float) -> int:
        """0: a SavedModel is what it is; `digest` tells one from another."""
        del target, timeout
        return 0

    def digest(self) -> str:
        """Equal for copies of one model: of its graph, and of the index with the weights' checksums."""
        digest = hashlib.sha256()
        for name in ("saved_model.pb", "variables/variables.index"):
            with open(os.path.join(self.path, name), "rb") as file:
                digest.update(file.read())
        return digest.hexdigest()[:16]

    def close(self) -> None:
        """Nothing to end."""


def _newest(path: str) -> str:
    """The folder itself if it is a SavedModel, else the highest of its versions."""
    versions = (
        [name for name in os.listdir(path) if name.isdecimal()] if os.path.isdir(path) else []
    )
    for folder in (
        path,
        *(os.path.join(path, name) for name in sorted(versions, key=int, reverse=True)),
    ):
        if os.path.exists(os.path.join(folder, "saved_model.pb")):
            return folder
    raise UserError(
        f"'{path}' holds no saved_model.pb; give the folder of a model or of a version, MODEL/VERSION."
    )
