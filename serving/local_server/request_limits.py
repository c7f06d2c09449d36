"""What the shape of an input may ask of a model, checked before anything of that size exists.

TF Serving leaves all of it to the graph, which may broadcast another number of channels, or fail in
some operation that says nothing about the request.
"""

from collections.abc import Sequence

from tensorflow.core.protobuf import meta_graph_pb2

from serving.local_server.status import invalid

# Rows in a request. A row costs a model time however few bytes it has: TFX sends 1000 at once, our
# client 32. Batching across requests has a lower limit of its own, max_batch_size.
MAX_ROWS = 4096


def check_shape(name: str, info: meta_graph_pb2.TensorInfo, sizes: Sequence[int]) -> None:
    """Checks the sizes of an input; another rank is left to the graph.

    Args:
        name: Name of the input, for the error.
        info: Input of the signature. Where its rank is unknown, there is nothing to check.
        sizes: Shape of the value.

    Raises:
        StatusError: INVALID_ARGUMENT for more than `MAX_ROWS` rows, for rows without a value, such
            as images of 0 pixels, or for another size than the signature's, such as channels. No
            rows are a valid request.
    """
    if info.tensor_shape.unknown_rank:
        return
    varies = [dim.size < 0 for dim in info.tensor_shape.dim]
    if sizes and varies[:1] == [True] and sizes[0] > MAX_ROWS:
        raise invalid(
            f"The input {name} has {sizes[0]} rows; send at most {MAX_ROWS} in one request."
        )
    pairs = list(zip(varies, sizes, strict=False))[1:]
    if len(sizes) == len(varies) and any(varying and size == 0 for varying, size in pairs):
        raise invalid(
            f"The input {name} has the shape {list(sizes)}, whose rows have no values; only the "
            "first size may be 0."
        )
    fixed = [dim.size for dim in info.tensor_shape.dim]
    if len(sizes) == len(fixed) and any(
        not varying and size != wanted
        for varying, size, wanted in zip(varies, sizes, fixed, strict=True)
    ):
        takes = ", ".join("?" if size < 0 else str(size) for size in fixed)
        raise invalid(
            f"The input {name} has the shape {list(sizes)}, and this model takes [{takes}]."
        )
