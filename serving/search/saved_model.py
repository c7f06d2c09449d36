"""A SavedModel in this process instead of an endpoint."""

import hashlib
import os

import numpy as np

from serving.client.transport import Batch, EmbeddingError, PixelFormat, Target, checked
from serving.errors import UserError


class SavedModelTransport:
    """A `Transport` that runs the model in this process.

    Args:
        path: Folder of the SavedModel, MODEL/VERSION, or MODEL for its highest version.

    Attributes:
        path: Folder of the version.

    Raises:
        UserError: The folder holds no SavedModel, or not an encoder's.
    """

    def __init__(self, path: str):
        path = _newest(path)
        import tensorflow as tf  # Here: most users of the client have an endpoint.

        self._tf = tf
        self.path = path
        try:
            self._model = tf.saved_model.load(path)
        except Exception as error:  # Many types; TensorFlow's text says what is wrong.
            raise UserError(
                f"the SavedModel '{path}' does not load ({str(error).strip().splitlines()[0]}); "
                "give a model of byol-export."
            ) from error
        missing = {"serving_default", "pixels"} - set(self._model.signatures)
        if missing:
            raise UserError(
                f"'{path}' has no signature {sorted(missing)}; give a model of byol-export."
            )

    def predict(self, target: Target, batch: Batch, timeout: float) -> np.ndarray:
        """Returns the embeddings of a batch; see `Transport`. The timeout is ignored."""
        del timeout
        if isinstance(batch.values, np.ndarray):
            self._check_pixels(target, batch.values)
        signature, name = batch.signature
        inputs = {name: self._tf.constant(batch.values)}
        try:
            embeddings = self._model.signatures[signature](**inputs)["embedding"].numpy()
        except self._tf.errors.OpError as error:
            # The reason is the last line before the list of nodes, after their definitions.
            text = error.message.partition("\n\t [[")[0].strip().splitlines()[-1]
            raise EmbeddingError(self._code(error), f"{target}: {text}") from error
        return checked(embeddings, batch, self.path)

    def pixel_format(self, target: Target, timeout: float) -> PixelFormat:
        """Returns the arrays that the model takes."""
        del target, timeout
        _, inputs = self._model.signatures["pixels"].structured_input_signature
        return PixelFormat(inputs["images"].shape[-1], inputs["images"].dtype.name)

    def _check_pixels(self, target: Target, images: np.ndarray) -> None:
        takes = self.pixel_format(target, 0)
        if (images.shape[-1], images.dtype.name) != (takes.channels, takes.dtype):
            raise EmbeddingError(
                "INVALID_ARGUMENT",
                f"{target}: the images are {images.dtype.name} [N, H, W, {images.shape[-1]}], and "
                f"the model takes {takes.dtype} [N, H, W, {takes.channels}]",
            )

    def _code(self, error: Exception) -> str:
        bad_input = isinstance(error, self._tf.errors.InvalidArgumentError)
        return "INVALID_ARGUMENT" if bad_input else "INTERNAL"

    def version(self, target: Target, timeout: float) -> int:
        """Returns 0: a SavedModel has no other versions. `digest` identifies it."""
        del target, timeout
        return 0

    def digest(self) -> str:
        """Returns a hash of the graph and the weights' checksums, equal for copies of the model."""
        digest = hashlib.sha256()
        for name in ("saved_model.pb", "variables/variables.index"):
            with open(os.path.join(self.path, name), "rb") as file:
                digest.update(file.read())
        return digest.hexdigest()[:16]

    def close(self) -> None:
        """Does nothing: there are no connections."""


def _newest(path: str) -> str:
    """Returns the folder itself if it is a SavedModel, else its highest version."""
    names = os.listdir(path) if os.path.isdir(path) else []
    versions = sorted((name for name in names if name.isdecimal()), key=int, reverse=True)
    for folder in (path, *(os.path.join(path, name) for name in versions)):
        if os.path.exists(os.path.join(folder, "saved_model.pb")):
            return folder
    raise UserError(
        f"'{path}' holds no saved_model.pb; give the folder of a model or of a version, "
        "MODEL/VERSION."
    )
