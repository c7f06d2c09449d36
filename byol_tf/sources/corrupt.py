"""Decoding that skips corrupt images: counts them, logs their names, ends the run if too many.

TensorFlow has no decoder that reports failure as a value, and an exception inside `Dataset.map`
drops its element. So a chunk of examples is decoded by a small dataset within one call of `map`,
and `ignore_errors` drops what fails; which examples are missing is then known, and none is decoded
twice. Such a dataset costs about two milliseconds, which the chunk's examples share.
"""

import re
import threading
from collections.abc import Callable

import tensorflow as tf
from absl import logging

from byol_tf.errors import UserError

# What TensorFlow may write before the message of a graph's operation: where that was defined.
_PREAMBLE = r"\AGraph execution error:\s*(Detected at node .*\n([ <].*\n|\n)*)*"


# `images.bands` says so of a file of another number of channels than the config's.
_OTHER_BANDS = re.compile(r"it has (\d+) bands?, not the ")


class CorruptExamples:
    """The corrupt examples of one source, each counted once however often it is read.

    Args:
        source_name: Name of the source, for messages.
        num_examples: Number of examples of the source.

    Attributes:
        reasons: Decoder messages by example name, in the order they were found.
        error: Reason why the run must end, or None. tf.data raises it as a `tf.errors.OpError`.
    """

    def __init__(self, source_name: str, num_examples: int):
        self.reasons: dict[str, str] = {}
        self.error: UserError | None = None
        self._source_name = source_name
        self._num_examples = num_examples
        self._lock = threading.Lock()  # Chunks are decoded in parallel.

    def add(self, name: str, reason: str, max_fraction: float) -> None:
        """Counts and logs one corrupt example; sets `error` if there are now too many.

        Args:
            name: Path of the file within the source, or file and number of the record.
            reason: Message of the decoder.
            max_fraction: Largest fraction of corrupt examples, see `allowed_corrupt`.
        """
        with self._lock:
            if name not in self.reasons:
                self.reasons[name] = reason
                logging.warning(
                    "%s: skipping the corrupt image %s (%s); %d of %d so far.",
                    self._source_name,
                    name,
                    reason,
                    len(self.reasons),
                    self._num_examples,
                )
            count = len(self.reasons)
            if count > allowed_corrupt(max_fraction, self._num_examples):
                self.error = self.error or UserError(
                    f"{count} of the {self._num_examples} images in '{self._source_name}' are "
                    f"corrupt, more than max_corrupt_fraction={max_fraction:g} allows (such as "
                    f"{name}: {self.reasons[name]}); {self._channels_to_give()}remove those that "
                    "the log names, or allow more."
                )

    def fail_batch(self) -> None:
        """Sets `error`: a batch has no good image to replace the corrupt ones with."""
        with self._lock:
            self.error = self.error or UserError(
                f"all images of a batch from '{self._source_name}' are corrupt; "
                f"{self._channels_to_give()}remove those that the log names, or give a larger "
                "batch."
            )

    def none_left(self) -> UserError:
        """Returns the sentence for a source of which no image decodes."""
        name, reason = next(iter(self.reasons.items()), ("none", "they could not be read"))
        return UserError(
            f"none of the images in '{self._source_name}' that were read is intact (such as "
            f"{name}: {reason}); {self._channels_to_give()}give others."
        )

    def _channels_to_give(self) -> str:
        """Returns what to set if all corrupt images have the same number of other channels."""
        found = {match and match[1] for match in map(_OTHER_BANDS.match, self.reasons.values())}
        number = found.pop() if len(found) == 1 else None
        return f"give --config.channels={number}, or " if number else ""


def allowed_corrupt(max_fraction: float, num_examples: int) -> int:
    """Returns how many of the examples may be corrupt.

    Unless the fraction, in [0, 1], is 0, one example always may be, so that a single bad file does
    not end a run on a small folder.
    """
    return max(int(max_fraction * num_examples), 1 if max_fraction > 0 else 0)


def decode_chunks(
    chunks: tf.data.Dataset,
    decode: Callable[..., tuple],
    corrupt: CorruptExamples,
    max_fraction: float,
) -> tf.data.Dataset:
    """Decodes chunks of examples, in parallel and in order.

    Args:
        chunks: Dataset of tuples of tensors `[c, ...]`; the second tensor holds the names, string
            `[c]`.
        decode: Function from the tensors of one example to a tuple of tensors of static shape.
        corrupt: Record that gets the examples for which `decode` fails.
        max_fraction: Largest fraction of corrupt examples, see `allowed_corrupt`.

    Returns:
        Dataset of `(decoded, valid)`: the tuple of `decode` with tensors `[c, ...]`, zero where
        corrupt, and bool `[c]`.
    """

    def report(*columns):
        for example in zip(*columns, strict=True):
            name = tf.compat.as_bytes(example[1]).decode(errors="replace")
            reason = corrupt.reasons.get(name) or _reason(decode, example)
            corrupt.add(name, reason, max_fraction)
        return str(corrupt.error or "")

    def decode_chunk(*chunk):
        static_size = chunk[1].shape[0]
        size = static_size or tf.size(chunk[1], tf.int64)
        decoded = (
            tf.data.Dataset.from_tensor_slices(chunk)
            .enumerate()
            .map(lambda row, example: (row, decode(*example)))
            .ignore_errors()
        )
        # A last row of zeros stands in for corrupt examples, and for all if none is good.
        zeros = tf.nest.map_structure(
            lambda spec: tf.zeros(spec.shape, spec.dtype), decoded.element_spec
        )
        decoded = decoded.concatenate(tf.data.Dataset.from_tensors(zeros))
        rows, columns = decoded.batch(size + 1).get_single_element()
        num_good = tf.size(rows, tf.int64) - 1

        def all_good():
            return tuple(column[:size] for column in columns), tf.fill([size], True)

        def some_corrupt():
            place = tf.tensor_scatter_nd_update(
                tf.fill([size], num_good), rows[:-1, tf.newaxis], tf.range(num_good)
            )
            valid = place < num_good
            _end_run_if(report, *(tf.boolean_mask(part, ~valid) for part in chunk))
            return tuple(tf.gather(column, place) for column in columns), valid

        decoded, valid = tf.cond(num_good == size, all_good, some_corrupt)
        for column in (*decoded, valid):
            column.set_shape([static_size, *column.shape[1:]])
        return decoded, valid

    return chunks.map(decode_chunk, tf.data.AUTOTUNE, deterministic=True)


def replace_corrupt(decoded: tuple, valid: tf.Tensor, corrupt: CorruptExamples) -> tuple:
    """Replaces each corrupt example of a batch by its first good one, so the batch stays full.

    Args:
        decoded: Tensors `[B, ...]`.
        valid: Which examples are good, bool `[B]`.
        corrupt: Record that ends the run if none is good.

    Returns:
        Tensors like `decoded`.
    """

    def report(any_valid):
        if not any_valid:
            corrupt.fail_batch()
        return "" if any_valid else str(corrupt.error)

    def replace():
        _end_run_if(report, tf.reduce_any(valid))
        rows = tf.where(valid, tf.range(tf.size(valid, tf.int64)), tf.argmax(valid))
        return tuple(tf.gather(part, rows) for part in decoded)

    return tf.cond(tf.reduce_all(valid), lambda: decoded, replace)


def decoder_message(error: tf.errors.OpError) -> str:
    """Returns a decoder's message about a corrupt image, without TensorFlow's node names."""
    message = re.sub(_PREAMBLE, "", error.message)
    line = re.sub(r"\{\{.*?\}\} ?| ?\[Op:.*", "", message).strip().split("\n")[0]
    line = re.sub(r"^assertion failed: \[([^\[\]]*)\]$", r"\1", line)  # In a graph.
    return re.sub(r"^Expected .* Summarized data: b(['\"])(.*)\1$", r"\2", line)  # An assertion.


def _end_run_if(report: Callable[..., str], *tensors: tf.Tensor) -> None:
    """Fails in the graph with the sentence that `report` returns, unless it is empty.

    If `report` raised instead, TensorFlow would print the stack trace.
    """
    sentence = tf.numpy_function(report, tensors, tf.string)
    tf.debugging.Assert(sentence == "", [sentence])


def _reason(decode: Callable[..., tuple], example: tuple) -> str:
    """Returns why `decode` fails for a corrupt example."""
    try:
        decode(*(tf.convert_to_tensor(part) for part in example))
    except tf.errors.OpError as error:
        return decoder_message(error)
    except UnicodeDecodeError:  # TensorFlow's message quotes the bytes.
        return "not a tf.Example"
    return "unreadable at the first attempt only"
