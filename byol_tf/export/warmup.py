"""Warm-up requests of an exported encoder: what TF Serving replays before a version is available.

A TFRecord file of `tensorflow.serving.PredictionLog`, one Predict request a signature. One that
failed would make the version fail to load, and more than 1000 would too.
"""

import os

import numpy as np
import tensorflow as tf

PATH = "assets.extra/tf_serving_warmup_requests"


def warmup_inputs(image_size: int) -> dict[str, dict[str, np.ndarray]]:
    """One request a signature, each with the same image: signature → input name → value.

    Args:
        image_size: side of the image, pixels.
    """
    ramp = np.linspace(0, 255, image_size).astype(np.uint8)
    image = np.stack(np.broadcast_arrays(ramp, ramp[:, np.newaxis], ramp[::-1]), axis=-1)
    # PNG, so that all signatures see the same pixels.
    encoded = tf.io.encode_png(image).numpy()
    example = tf.train.Example()
    example.features.feature["image/encoded"].bytes_list.value.append(encoded)
    return {
        "serving_default": {"image_bytes": np.array([encoded], object)},
        "pixels": {"images": image[np.newaxis]},
        "examples": {"examples": np.array([example.SerializeToString()], object)},
    }


def write_warmup(model_dir: str, model_name: str, inputs: dict[str, dict[str, np.ndarray]]) -> None:
    """Adds the requests to the SavedModel in `model_dir`, addressed to the model `model_name`."""
    # Not at the top: training needs no serving protos.
    from tensorflow_serving.apis import prediction_log_pb2

    path = os.path.join(model_dir, PATH)
    tf.io.gfile.makedirs(os.path.dirname(path))
    with tf.io.TFRecordWriter(path) as writer:
        for signature_name, values in inputs.items():
            log = prediction_log_pb2.PredictionLog()
            request = log.predict_log.request
            request.model_spec.name = model_name
            request.model_spec.signature_name = signature_name
            for name, value in values.items():
                request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
            writer.write(log.SerializeToString())
