"""Executor of CorpusEmbedder."""

import json
import os
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf
from absl import logging
from tfx.components.util import model_utils
from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact, artifact_utils
from tfx.utils import path_utils

from byol_tf import export
from byol_tf.errors import UserError
from byol_tf.files import write_atomically
from byol_tf.sources.unread import Unread
from pipelines.images import listing
from pipelines.images.run_shards import run_shards
from pipelines.images.shards import CorruptImage, ImageReader
from pipelines.settings import canonical

_BATCH = 64


class Executor(base_beam_executor.BaseBeamExecutor):
    """Writes one Parquet file per shard of images, and properties num_images and num_corrupt."""

    def Do(
        self,
        input_dict: dict[str, list[artifact.Artifact]],
        output_dict: dict[str, list[artifact.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Embeds the images of `data_dir` if the encoder is blessed."""
        (embeddings,) = output_dict["embeddings"]
        if not model_utils.is_model_blessed(
            artifact_utils.get_single_instance(input_dict["model_blessing"])
        ):
            logging.warning("the encoder is not blessed: embedding nothing")
            return
        data_dir = canonical(exec_properties["data_dir"])  # Of a link, the user's path.
        unread = Unread()
        found = listing.find_files(data_dir, "**", unread)
        for sentence in unread.sentences():
            logging.warning("%s: %s", data_dir, sentence)
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
    """Shard (JSON) -> JSON with the number of images, and (key, reason) of each corrupt image.

    Args:
        model: Path of the encoder's SavedModel.
        output: Folder for the Parquet files.
    """

    def __init__(self, model: str, output: str):
        self._model_path = model
        self._output = output

    def setup(self) -> None:
        """Loads the model, once per worker."""
        self._model, preprocessing, _ = export.load_saved_model(self._model_path)
        self._reader = ImageReader(preprocessing.channels, preprocessing.bit_depth)

    def process(self, element: str) -> Iterator[str]:
        """Embeds the images of a shard, `_BATCH` at a time."""
        shard = listing.Shard.from_json(element)
        embed = self._model.signatures["serving_default"]
        keys: list[str] = []
        rows: list[np.ndarray] = []
        corrupt: list[tuple[str, str]] = []
        waiting: list[tuple[str, bytes]] = []

        def flush() -> None:
            if waiting:
                answer = embed(image_bytes=tf.constant([content for _, content in waiting]))
                rows.extend(answer["embedding"].numpy())
                keys.extend(key for key, _ in waiting)
                waiting.clear()

        for path, key, _, _ in shard.images:
            try:
                # Raises for an image that would fail the batch.
                example = self._reader.example(self._reader.read(path), key, -1, "")
                waiting.append((key, example.features.feature["image/encoded"].bytes_list.value[0]))
            except CorruptImage as error:
                corrupt.append((key, str(error)))
            if len(waiting) == _BATCH:
                flush()
        flush()
        if keys:
            name = f"embeddings-{shard.index:05d}-of-{shard.count:05d}.parquet"
            self._write(os.path.join(self._output, name), keys, rows)
        yield json.dumps({"images": len(keys), "corrupt": corrupt})

    def _write(self, path: str, keys: list[str], rows: list[np.ndarray]) -> None:
        # A file name may be invalid Unicode, a Parquet string may not.
        names = [os.fsencode(key).decode(errors="backslashreplace") for key in keys]
        table = pa.table(
            {
                "key": pa.array(names, pa.string()),
                "embedding": pa.array(rows, pa.list_(pa.float32())),
            }
        )
        content = pa.BufferOutputStream()  # Arrow cannot write to a GFile.
        pq.write_table(table, content)
        write_atomically(path, content.getvalue().to_pybytes())
