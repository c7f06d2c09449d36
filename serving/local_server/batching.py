"""Cross-request batching with TensorFlow's BatchFunction operation, added to a loaded graph.

It uses the scheduler of TF Serving's batching session (`shared_batch_scheduler.h`) with the same
parameters: waiting requests are concatenated along dimension 0, run once, and split again.
"""

import dataclasses
import os

import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

from serving.errors import UserError


@dataclasses.dataclass(frozen=True)
class Batching:
    """`BatchingParameters` of TF Serving, with its defaults.

    Attributes:
        max_batch_size: Maximum rows of a batch.
        batch_timeout_micros: Microseconds that the first request of a batch waits for others.
        max_enqueued_batches: Batches that may wait; beyond that, requests get UNAVAILABLE.
        num_batch_threads: Batches that run at the same time.
        allowed_batch_sizes: Sizes that a batch is padded to, increasing. The last one is
            max_batch_size, or less if large requests are split.
        enable_large_batch_splitting: Whether a request may be split to fill batches; otherwise a
            request of more than max_batch_size rows is refused.

    Raises:
        UserError: A value is out of range.
    """

    max_batch_size: int = 1000
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    num_batch_threads: int = os.cpu_count() or 1
    allowed_batch_sizes: tuple[int, ...] = ()
    enable_large_batch_splitting: bool = False

    def __post_init__(self) -> None:
        for name, least in (
            ("max_batch_size", 1),
            ("batch_timeout_micros", 0),
            ("max_enqueued_batches", 1),
            ("num_batch_threads", 1),
        ):
            if getattr(self, name) < least:
                raise UserError(
                    f"{name} in the batching parameters is {getattr(self, name)}; "
                    f"give at least {least}."
                )
        sizes = self.allowed_batch_sizes
        if sizes and (
            sorted(set(sizes)) != list(sizes)
            or sizes[0] < 1
            or sizes[-1] > self.max_batch_size
            or (sizes[-1] < self.max_batch_size and not self.enable_large_batch_splitting)
        ):
            raise UserError(
                f"allowed_batch_sizes in the batching parameters are {list(sizes)}; give "
                f"increasing sizes of which the last is max_batch_size ({self.max_batch_size})."
            )


def batched(
    graph: tf.Graph, signature: meta_graph_pb2.SignatureDef, batching: Batching
) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
    """Adds a batched copy of a signature to the graph it was loaded into.

    Args:
        graph: Graph with the signature's tensors; not finalized.
        signature: Signature with inputs and outputs, whose dimension 0 is the batch.
        batching: Parameters of the batching.

    Returns:
        Placeholders by input name and tensors by output name. The copy shares the original's
        variables and tables: their resources have the same names in the same session.
    """
    inputs = sorted(signature.inputs)
    outputs = sorted(signature.outputs)
    tensors = [signature.outputs[name].name for name in outputs]
    body = tf.compat.v1.graph_util.extract_sub_graph(
        graph.as_graph_def(), sorted({tensor.split(":")[0] for tensor in tensors})
    )

    def run(*values: tf.Tensor) -> list[tf.Tensor]:
        feeds = {
            signature.inputs[name].name: value for name, value in zip(inputs, values, strict=True)
        }
        return tf.graph_util.import_graph_def(
            body, input_map=feeds, return_elements=tensors, name=""
        )

    with graph.as_default():
        placeholders = [
            tf.compat.v1.placeholder(
                tf.as_dtype(signature.inputs[name].dtype),
                tf.TensorShape(signature.inputs[name].tensor_shape),
            )
            for name in inputs
        ]
        function = tf.function(run, autograph=False).get_concrete_function(
            *(tf.TensorSpec(placeholder.shape, placeholder.dtype) for placeholder in placeholders)
        )
        results = tf.raw_ops.BatchFunction(
            in_tensors=placeholders,
            captured_tensors=function.captured_inputs,
            f=function,
            Tout=[tf.as_dtype(signature.outputs[name].dtype) for name in outputs],
            **dataclasses.asdict(batching),
        )
    return dict(zip(inputs, placeholders, strict=True)), dict(zip(outputs, results, strict=True))
