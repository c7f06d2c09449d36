"""The DoFn that writes a shard: reads image files or records, writes a TFRecord of tf.Examples."""

import functools
import json
import os
from collections.abc import Callable, Iterator

import apache_beam as beam
import tensorflow as tf
from apache_beam.io.filesystems import FileSystems
from google.protobuf.message import DecodeError

from byol_tf.files import replacing
from byol_tf.images.file_formats import convert, is_for_pillow
from byol_tf.images.preprocessing import decode_image
from byol_tf.images.size_limit import bounded
from byol_tf.sources.corrupt import decoder_message
from pipelines.images.listing import Shard, split_of
from pipelines.images.pixels import kind_of

_FORMATS = {b"\xff\xd8\xff": b"JPEG", b"\x89PNG": b"PNG", b"GIF8": b"GIF", b"BM": b"BMP"}
# Images are compressed already; level 1 suffices for the rest of the record.
_OPTIONS = tf.io.TFRecordOptions(compression_type="GZIP", compression_level=1)


class CorruptImage(Exception):
    """An image that cannot be read or decoded; the message says why."""


class UnreadableRecords(Exception):
    """A file that is not a complete TFRecord file of tf.Examples."""


class ImageReader:
    """Reads image files, checks that they can be decoded, and makes tf.Examples of them.

    Args:
        channels: Number of channels that training and serving decode to.
        bit_depth: Their bits, 8 or 16.
    """

    def __init__(self, channels: int, bit_depth: int) -> None:
        def shape(image_bytes: tf.Tensor) -> tf.Tensor:
            file = bounded(image_bytes[tf.newaxis])[0]
            return tf.shape(decode_image(file, channels, bit_depth))

        self._shape = tf.function(shape, input_signature=[tf.TensorSpec([], tf.string)])

    def read(self, path: str) -> bytes:
        """Returns the content of a file on any Beam file system.

        Raises:
            CorruptImage: The file cannot be read.
        """
        try:
            with FileSystems.open(path) as file:
                return file.read()
        except OSError as error:
            raise CorruptImage(f"cannot be read: {error.strerror or error}") from error

    def example(self, content: bytes, key: str, label: int, text: str) -> tf.train.Example:
        """Returns an image and what is known about it as a tf.Example.

        Its features: `image/encoded`, the file, or a PNG with all bands of a WebP, TIFF or HEIC;
        `image/format` (JPEG, PNG, GIF, BMP), `image/pixels` (see `pixels.kind_of`), `image/height`
        and `image/width` in pixels of the upright image, `image/key`, `image/label` (-1 if
        unknown), `image/label_text` ("" if unknown).

        Raises:
            CorruptImage: The image has too many pixels, or cannot be decoded by the decoder of
                training and serving, to the channels that it takes.
        """
        try:
            image_bytes = convert(content, "PNG") if is_for_pillow(content) else content
            height, width, _ = self._shape(image_bytes).numpy().tolist()
        except tf.errors.OpError as error:
            raise CorruptImage(decoder_message(error)) from error
        except ValueError as error:
            raise CorruptImage(str(error)) from error
        image_format = next(
            name for magic, name in _FORMATS.items() if image_bytes.startswith(magic)
        )
        example = tf.train.Example()
        feature = example.features.feature
        feature["image/encoded"].bytes_list.value.append(image_bytes)
        feature["image/format"].bytes_list.value.append(image_format)
        feature["image/pixels"].bytes_list.value.append(kind_of(image_bytes).encode())
        feature["image/height"].int64_list.value.append(height)
        feature["image/width"].int64_list.value.append(width)
        feature["image/key"].bytes_list.value.append(os.fsencode(key))
        feature["image/label"].int64_list.value.append(label)
        feature["image/label_text"].bytes_list.value.append(os.fsencode(text))
        return example


class WriteShard(beam.DoFn):
    """Shard (JSON) -> JSON with split, number of examples, and (key, reason) of each corrupt image.

    A shard is written atomically, so that a worker may fail and try again. A damaged file of
    records would fail every time: it gives no shard, and the result has `unreadable`: (path,
    reason).

    Args:
        split_uris: Folder of each split.
        channels, bit_depth: See `ImageReader`.
    """

    def __init__(self, split_uris: dict[str, str], channels: int, bit_depth: int):
        self._split_uris = split_uris
        self._channels, self._bit_depth = channels, bit_depth

    def setup(self) -> None:
        """Makes the reader, once per worker."""
        self._reader = ImageReader(self._channels, self._bit_depth)

    def process(self, element: str) -> Iterator[str]:
        """Writes one shard."""
        shard = Shard.from_json(element)
        path = os.path.join(self._split_uris[shard.split], shard.name)
        examples, unreadable = 0, None
        corrupt: list[tuple[str, str]] = []
        try:
            with (
                replacing(path) as temporary,
                tf.io.TFRecordWriter(temporary, _OPTIONS) as writer,
            ):
                for key, make in self._makers(shard):
                    try:
                        writer.write(make().SerializeToString(deterministic=True))
                        examples += 1
                    except CorruptImage as error:
                        corrupt.append((key, str(error)))
        except UnreadableRecords as error:
            unreadable = (shard.records, str(error))
        result = {"split": shard.split, "examples": examples, "corrupt": corrupt}
        yield json.dumps(result | ({"unreadable": unreadable} if unreadable else {}))

    def _makers(self, shard: Shard) -> Iterator[tuple[str, Callable[[], tf.train.Example]]]:
        """Yields (key, function that makes the example) for each image of the shard."""
        for path, key, label, text in shard.images:
            yield key, functools.partial(self._from_file, path, key, label, text)
        if shard.records:
            for number, record in enumerate(_records(shard.records)):
                key = _text(record, "image/key") or f"{os.path.basename(shard.records)}#{number}"
                if not shard.buckets or split_of(key, shard.buckets) == shard.split:
                    yield key, functools.partial(self._from_record, record, key)

    def _from_file(self, path: str, key: str, label: int, text: str) -> tf.train.Example:
        return self._reader.example(self._reader.read(path), key, label, text)

    def _from_record(self, record: tf.train.Example, key: str) -> tf.train.Example:
        """Returns a foreign record as an example with exactly our features."""
        images = record.features.feature["image/encoded"].bytes_list.value
        if not images:
            raise CorruptImage("there is no feature image/encoded")
        label = list(record.features.feature["image/label"].int64_list.value) or [-1]
        return self._reader.example(images[0], key, label[0], _text(record, "image/label_text"))


def _records(path: str) -> Iterator[tf.train.Example]:
    """Yields the examples of a TFRecord file."""
    compression = "GZIP" if path.endswith(".gz") else ""
    try:
        for serialized in tf.data.TFRecordDataset(path, compression).as_numpy_iterator():
            yield tf.train.Example.FromString(serialized)
    except (
        tf.errors.DataLossError,
        tf.errors.NotFoundError,
        tf.errors.PermissionDeniedError,
    ) as error:
        raise UnreadableRecords(decoder_message(error)) from error
    except DecodeError as error:
        raise UnreadableRecords("it contains records that are not tf.Examples") from error


def _text(record: tf.train.Example, name: str) -> str:
    """Returns a bytes feature as text, or "" if it is missing."""
    values = record.features.feature[name].bytes_list.value
    return os.fsdecode(values[0]) if values else ""
