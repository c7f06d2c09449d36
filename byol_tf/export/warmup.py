"""Warm-up requests of an exported model, which TF Serving replays before a version is available.

They are a TFRecord file of `tensorflow.serving.PredictionLog`, one Predict request per signature. A
request that fails makes the version fail to load, and so do more than 1000 requests.
"""

import os

import numpy as np
import tensorflow as tf

from byol_tf.images import bands
from byol_tf.images.preprocessing import Preprocessing

PATH = "assets.extra/tf_serving_warmup_requests"


def warmup_inputs(preprocessing: Preprocessing, times: int = 1) -> dict[str, dict[str, np.ndarray]]:
    """Returns one request per signature, all with the same image.

    Args:
        preprocessing: Preprocessing of the images.
        times: Side of the image, as a multiple of the preprocessed one.

    Returns:
        Values by signature name and input name.
    """
    dtype = preprocessing.pixel_type.as_numpy_dtype
    ramp = np.linspace(0, np.iinfo(dtype).max, times * preprocessing.image_size).astype(dtype)
    ramps = np.broadcast_arrays(ramp, ramp[:, np.newaxis], ramp[::-1])
    image = np.stack([ramps[band % 3] for band in range(preprocessing.channels)], axis=-1)
    # PNG is lossless, so that all signatures see the same pixels.
    encoded = bands.encode_png(image).numpy()
    example = tf.train.Example()
    example.features.feature["image/encoded"].bytes_list.value.append(encoded)
    return {
        "serving_default": {"image_bytes": np.array([encoded], object)},
        "pixels": {"images": image[np.newaxis]},
        "examples": {"examples": np.array([example.SerializeToString()], object)},
    }


def write_warmup(model_dir: str, model_name: str, inputs: dict[str, dict[str, np.ndarray]]) -> None:
    """Writes requests to the SavedModel in `model_dir`.

    Args:
        model_dir: Folder of the SavedModel.
        model_name: Name of the model in the requests.
        inputs: Requests of `warmup_inputs`.
    """
    # Imported here because training needs no serving protos.
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
