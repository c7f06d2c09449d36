"""Checks that a SavedModel can be served: loads and calls it as TF Serving does. Imports no TFX."""

import contextlib
import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from byol_tf.export import warmup
from byol_tf.export.encoder import read_card
from byol_tf.images.preprocessing import Preprocessing
from byol_tf.sources.corrupt import decoder_message

_TOLERANCE = 1e-4


class Server:
    """A SavedModel in its own session, as in TF Serving.

    Args:
        path: Path of the SavedModel.

    Raises:
        Exception: The model does not load; any exception of TensorFlow.
    """

    def __init__(self, path: str):
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        with self._session.graph.as_default():
            meta_graph = tf.compat.v1.saved_model.loader.load(self._session, ["serve"], path)
        self.signatures = meta_graph.signature_def

    def predict(self, signature_name: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Calls a signature; returns its outputs by name."""
        signature = self.signatures[signature_name]
        fetches = {name: tensor.name for name, tensor in signature.outputs.items()}
        feeds = {signature.inputs[name].name: value for name, value in inputs.items()}
        return self._session.run(fetches, feeds)

    def close(self) -> None:
        """Closes the session."""
        self._session.close()


def problems(path: str, examples: Sequence[bytes]) -> list[str]:
    """Returns what is wrong with a SavedModel, one sentence per problem; empty if it can be served.

    Args:
        path: Path of the SavedModel.
        examples: Serialized tf.Examples with `image/encoded`, to make requests of.
    """
    try:
        preprocessing, _ = read_card(path)
        server = Server(path)
    except Exception as error:  # Any exception would keep a server from loading the model.
        return [f"the model does not load: {_first_line(error)}"]
    try:
        found = _contract(server, preprocessing)
        return found or [*_recorded(server, path), *_real(server, examples, preprocessing)]
    finally:
        server.close()


def contract(preprocessing: Preprocessing) -> dict[str, tuple[str, tf.DType, list[int | None]]]:
    """Returns signature -> (input, dtype, shape): the contract of `byol_tf.export`."""
    pixels = [None, None, None, preprocessing.channels]
    return {
        "serving_default": ("image_bytes", tf.string, [None]),
        "pixels": ("images", preprocessing.pixel_type, pixels),
        "examples": ("examples", tf.string, [None]),
    }


def _contract(server: Server, preprocessing: Preprocessing) -> list[str]:
    """Compares the signatures with the contract."""
    found = []
    for name, (argument, dtype, shape) in contract(preprocessing).items():
        signature = server.signatures.get(name)
        if signature is None:
            found.append(f"the signature {name} is missing")
            continue
        if set(signature.inputs) != {argument}:
            found.append(f"{name} takes {sorted(signature.inputs)}, not {argument}")
        else:
            tensor = signature.inputs[argument]
            given = tf.TensorShape(tensor.tensor_shape)
            if tensor.dtype != dtype.as_datatype_enum or given.as_list() != shape:
                found.append(f"{name}'s {argument} is {given}, not {dtype.name} {shape}")
        outputs = signature.outputs
        if set(outputs) != {"embedding"} or outputs["embedding"].dtype != tf.float32:
            found.append(f"{name} gives {sorted(outputs)}, not a float32 embedding")
    return found


def _recorded(server: Server, path: str) -> list[str]:
    """Replays the warm-up requests; if one fails, TF Serving does not load a version."""
    from tensorflow_serving.apis import prediction_log_pb2

    file = os.path.join(path, warmup.PATH)
    if not tf.io.gfile.exists(file):
        return ["the warm-up requests are missing"]
    try:
        logs = [
            prediction_log_pb2.PredictionLog.FromString(serialized)
            for serialized in tf.data.TFRecordDataset(file).as_numpy_iterator()
        ]
    except Exception as error:  # Any exception would stop a server, too.
        return [f"the warm-up requests cannot be read: {_first_line(error)}"]
    found = []
    for log in logs:
        request = log.predict_log.request
        inputs = {name: tf.make_ndarray(value) for name, value in request.inputs.items()}
        name = request.model_spec.signature_name
        found += _answer(server, name, inputs, "the warm-up request")[1]
    return found


def _real(server: Server, examples: Sequence[bytes], preprocessing: Preprocessing) -> list[str]:
    """Sends real images, one by one and as a batch, through every signature, which must agree."""
    parsed = tf.io.parse_example(examples, {"image/encoded": tf.io.FixedLenFeature([], tf.string)})
    files = parsed["image/encoded"].numpy()
    batch, found = _answer(
        server, "serving_default", {"image_bytes": files}, f"{len(files)} images"
    )
    others = [("examples", {"examples": np.array(examples, object)}, slice(None))]
    for number, file in enumerate(files[:4]):
        one = slice(number, number + 1)
        others += [("serving_default", {"image_bytes": files[one]}, one)]
        with contextlib.suppress(tf.errors.InvalidArgumentError):  # serving_default names it.
            pixels = preprocessing.decode(file).numpy()[np.newaxis]
            others += [("pixels", {"images": pixels}, one)]
    for name, inputs, rows in others:
        answer, problem = _answer(server, name, inputs, "real images")
        found += problem
        if batch is not None and answer is not None:
            difference = np.abs(answer - batch[rows]).max()
            if difference > _TOLERANCE * max(1.0, np.abs(batch).max()):
                found.append(f"{name} differs from serving_default by up to {difference:.2g}")
    return found


def _answer(
    server: Server, name: str, inputs: dict[str, np.ndarray], what: str
) -> tuple[np.ndarray | None, list[str]]:
    """Returns the embeddings that a signature gives, if any, and the problems."""
    try:
        embedding = server.predict(name, inputs)["embedding"]
    except Exception as error:  # Any exception would fail a client's request, too.
        return None, [f"{name} fails on {what}: {_first_line(error)}"]
    count = len(next(iter(inputs.values())))
    if embedding.ndim != 2 or len(embedding) != count or not np.isfinite(embedding).all():
        return None, [
            f"{name} gives {embedding.shape} for {count} images, or numbers that are not finite"
        ]
    return embedding, []


def _first_line(error: Exception) -> str:
    if isinstance(error, tf.errors.OpError):
        return decoder_message(error)
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
