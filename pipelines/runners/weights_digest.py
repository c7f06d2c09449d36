"""A digest of the weights that a training starts from, by which a run knows them again."""

import hashlib

import tensorflow as tf

from byol_tf.errors import UserError
from pipelines.components.model_pusher.versions import tree_digest


def weights_digest(path: str) -> str:
    """Returns a digest of the contents of a file or folder.

    Raises:
        UserError: There is none.
    """
    if tf.io.gfile.isdir(path):
        return tree_digest(path)
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            total = hashlib.sha256()
            while block := file.read(1 << 24):
                total.update(block)
    except tf.errors.OpError as error:
        raise UserError(
            f"there are no weights '{path}' to start from ({type(error).__name__}); correct "
            "--config.encoder.weights."
        ) from error
    return total.hexdigest()
