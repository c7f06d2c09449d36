"""Executor of CorpusEmbedder."""

import json
import os
import uuid
from collections.abc import Iterator

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf
from absl import logging
from tfx.components.util import model_utils
from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact_utils
from tfx.utils import path_utils

from byol_tf.errors import UserError
from pipelines.images import listing
from pipelines.images.run_shards import run_shards
from pipelines.images.shards import CorruptImage, ImageReader

_BATCH = 64


class Executor(base_beam_executor.BaseBeamExecutor):
    """One Parquet file a shard of images; properties num_images and num_corrupt."""

    def Do(self, input_dict, output_dict, exec_properties):
        (embeddings,) = output_dict["embeddings"]
        if not model_utils.is_model_blessed(
            artifact_utils.get_single_instance(input_dict["model_blessing"])
        ):
            logging.warning("the encoder is not blessed: nothing is embedded")
            return
        data_dir = exec_properties["data_dir"]
        found = listing.find_files(data_dir, "**")
        files = [file for file in found if file.is_image]
        if not files:
            raise UserError(f"'{data_dir}' holds no images to embed; correct --embed_data_dir.")
        if len(files) < len(found):
            left_out = len(found) - len(files)
            logging.warning("%s: not embedding %d TFRecord files", data_dir, left_out)
        model = path_utils.serving_model_path(artifact_utils.get_single_uri(input_dict["model"]))
        results = run_shards(
            self._make_beam_pipeline(),
            listing.plan({"embed": files}, {}, {}),
            EmbedShard(model, embeddings.uri),
            self._get_tmp_dir(),
        )
        corrupt = [pair for result in results for pair in result["corrupt"]]
        for key, reason in corrupt:
            logging.warning("%s: not embedding the corrupt image %s (%s)", data_dir, key, reason)
        embeddings.set_int_custom_property("num_images", sum(r["images"] for r in results))
        embeddings.set_int_custom_property("num_corrupt", len(corrupt))


class EmbedShard(beam.DoFn):
    """Shard (JSON) → JSON with the number of images and (key, reason) of the corrupt.

    Args:
        model: path of the encoder's SavedModel.
        output: folder for the Parquet files.
    """

    def __init__(self, model: str, output: str):
        self._model_path = model
        self._output = output

    def setup(self):
        self._reader = ImageReader()
        self._model = tf.saved_model.load(self._model_path)

    def process(self, element: str) -> Iterator[str]:
        shard = listing.Shard.from_json(element)
        embed = self._model.signatures["serving_default"]
        keys, rows, corrupt, waiting = [], [], [], []

        def flush():
            if waiting:
                answer = embed(image_bytes=tf.constant([content for _, content in waiting]))
                rows.extend(answer["embedding"].numpy())
                keys.extend(key for key, _ in waiting)
                waiting.clear()

        for path, key, _, _ in shard.images:
            try:
                content = self._reader.read(path)
                self._reader.example(content, key, -1, "")  # Raises on what would fail the batch.
                waiting.append((key, content))
            except CorruptImage as error:
                corrupt.append((key, str(error)))
            if len(waiting) == _BATCH:
                flush()
        flush()
        if keys:
            name = f"embeddings-{shard.index:05d}-of-{shard.count:05d}.parquet"
            self._write(os.path.join(self._output, name), keys, rows)
        yield json.dumps({"images": len(keys), "corrupt": corrupt})

    def _write(self, path, keys, rows) -> None:
        # A file's name need not be Unicode, a string of Parquet does.
        names = [os.fsencode(key).decode(errors="backslashreplace") for key in keys]
        table = pa.table(
            {
                "key": pa.array(names, pa.string()),
                "embedding": pa.array(rows, pa.list_(pa.float32())),
            }
        )
        temporary = f"{path}.{uuid.uuid4().hex[:8]}.tmp"
        content = pa.BufferOutputStream()  # Arrow takes no GFile.
        pq.write_table(table, content)
        with tf.io.gfile.GFile(temporary, "wb") as file:
            file.write(content.getvalue().to_pybytes())
        tf.io.gfile.rename(temporary, path, overwrite=True)
