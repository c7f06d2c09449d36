"""Warm-up: replays the requests recorded beside a model before the model becomes AVAILABLE."""

import os

import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from serving.local_server import predict
from serving.local_server.servable import Servable
from serving.local_server.status import Code, StatusError, invalid

PATH = "assets.extra/tf_serving_warmup_requests"
_MAX_RECORDS = 1000


def warm_up(servable: Servable, path: str) -> int:
    """Replays the `PredictionLog` records in the TFRecord file below `path`/assets.extra.

    Names and versions in the records are ignored, as in TF Serving: only the signature counts.

    Returns:
        Number of replayed requests; 0 if there is no file.

    Raises:
        StatusError: The error of a request that fails; DATA_LOSS if the file is not a TFRecord
            file; INVALID_ARGUMENT for a record that is not a PredictionLog, or for more than 1000
            records; UNIMPLEMENTED for a call that this server does not have.
    """
    file = os.path.join(path, PATH)
    if not os.path.exists(file):
        return 0
    count = 0
    try:
        for record in tf.data.TFRecordDataset(file).as_numpy_iterator():
            if count == _MAX_RECORDS:
                raise invalid(
                    f"Number of warmup records exceeds the maximum ({_MAX_RECORDS}) in {file}"
                )
            count += _replay(servable, record, file)
    except tf.errors.DataLossError as error:
        raise StatusError(
            Code.DATA_LOSS,
            f"{error.message}. Please verify your warmup data is in TFRecord format.",
        ) from error
    return count


def _replay(servable: Servable, record: bytes, file: str) -> int:
    try:
        log = prediction_log_pb2.PredictionLog.FromString(record)
    except Exception as error:  # DecodeError; its class depends on the implementation of protobuf.
        raise invalid(f"Failed to parse warmup record: {error} from {file}") from error
    kind = log.WhichOneof("log_type")
    if kind is None:
        return 0
    if kind != "predict_log":
        raise StatusError(Code.UNIMPLEMENTED, f"Unsupported log_type for warmup: {kind} in {file}")
    predict.predict_with(servable, log.predict_log.request, None)
    return 1
