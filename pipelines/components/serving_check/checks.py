"""Whether a SavedModel is fit to be served: loaded and asked as TF Serving does. No TFX."""

import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from byol_tf.export import warmup
from byol_tf.images.preprocessing import decode_image
from byol_tf.sources.corrupt import decoder_message

# signature → (input, its type, its shape), the contract of DESIGN section 4.
CONTRACT = {
    "serving_default": ("image_bytes", tf.string, [None]),
    "pixels": ("images", tf.uint8, [None, None, None, 3]),
    "examples": ("examples", tf.string, [None]),
}
_TOLERANCE = 1e-4


class Server:
    """A SavedModel in a session of its own, which is what TF Serving makes of it.

    Raises:
        Exception: whatever TensorFlow says if the model does not load.
    """

    def __init__(self, path: str):
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        with self._session.graph.as_default():
            meta_graph = tf.compat.v1.saved_model.loader.load(self._session, ["serve"], path)
        self.signatures = meta_graph.signature_def

    def predict(self, signature_name: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs of a signature by name."""
        signature = self.signatures[signature_name]
        fetches = {name: tensor.name for name, tensor in signature.outputs.items()}
        feeds = {signature.inputs[name].name: value for name, value in inputs.items()}
        return self._session.run(fetches, feeds)

    def close(self) -> None:
        """Frees the session."""
        self._session.close()


def problems(path: str, examples: Sequence[bytes]) -> list[str]:
    """What is wrong with the SavedModel at `path`, a sentence each; empty if it can be served.

    Args:
        path: of the SavedModel.
        examples: serialized tf.Examples with `image/encoded`, to make requests of.
    """
    try:
        server = Server(path)
    except Exception as error:  # Whatever it is, a server would say the same.
        return [f"the model does not load: {_first_line(error)}"]
    try:
        found = _contract(server)
        return found or [*_recorded(server, path), *_real(server, examples)]
    finally:
        server.close()


def _contract(server: Server) -> list[str]:
    found = []
    for name, (argument, dtype, shape) in CONTRACT.items():
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
    """Replays the warm-up requests, a failure of which keeps TF Serving from loading a version."""
    from tensorflow_serving.apis import prediction_log_pb2

    file = os.path.join(path, warmup.PATH)
    if not tf.io.gfile.exists(file):
        return ["the warm-up requests are missing"]
    try:
        logs = [
            prediction_log_pb2.PredictionLog.FromString(serialized)
            for serialized in tf.data.TFRecordDataset(file).as_numpy_iterator()
        ]
    except Exception as error:  # As above.
        return [f"the warm-up requests cannot be read: {_first_line(error)}"]
    found = []
    for log in logs:
        request = log.predict_log.request
        inputs = {name: tf.make_ndarray(value) for name, value in request.inputs.items()}
        name = request.model_spec.signature_name
        found += _answer(server, name, inputs, "the warm-up request")[1]
    return found


def _real(server: Server, examples: Sequence[bytes]) -> list[str]:
    """Real images, alone and together, through every signature: they must agree."""
    parsed = tf.io.parse_example(examples, {"image/encoded": tf.io.FixedLenFeature([], tf.string)})
    files = parsed["image/encoded"].numpy()
    batch, found = _answer(
        server, "serving_default", {"image_bytes": files}, f"{len(files)} images"
    )
    others = [("examples", {"examples": np.array(examples, object)}, slice(None))]
    for number, file in enumerate(files[:4]):
        pixels = decode_image(file).numpy()[np.newaxis]
        one = slice(number, number + 1)
        others += [("pixels", {"images": pixels}, one)]
        others += [("serving_default", {"image_bytes": files[one]}, one)]
    for name, inputs, rows in others:
        answer, problem = _answer(server, name, inputs, "real images")
        found += problem
        if batch is not None and answer is not None:
            difference = np.abs(answer - batch[rows]).max()
            if difference > _TOLERANCE * max(1.0, np.abs(batch).max()):
                found.append(f"{name} differs from serving_default by up to {difference:.2g}")
    return found


def _answer(server, name, inputs, what) -> tuple[np.ndarray | None, list[str]]:
    try:
        embedding = server.predict(name, inputs)["embedding"]
    except Exception as error:  # As above.
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
