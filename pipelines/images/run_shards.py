"""Runs a Beam DoFn on each shard, for ImageExampleGen and CorpusEmbedder."""

import json
import os
from collections.abc import Iterable

import apache_beam as beam
import tensorflow as tf

from pipelines.images.listing import Shard


def run_shards(
    pipeline: beam.Pipeline, shards: Iterable[Shard], do_fn: beam.DoFn, folder: str
) -> list[dict]:
    """Runs `do_fn` on each shard; returns its parsed results.

    Args:
        pipeline: Beam pipeline that has not been run.
        shards: Shards that Beam distributes to workers.
        do_fn: Function from the JSON of a shard to JSON.
        folder: Folder for the lists of work and results, on a file system that workers can access.
    """
    # A file instead of beam.Create, whose elements would be part of the job's graph.
    work, done = os.path.join(folder, "shards.jsonl"), os.path.join(folder, "done.jsonl")
    tf.io.gfile.makedirs(folder)
    with tf.io.gfile.GFile(work, "w") as file:
        file.write("".join(shard.to_json() + "\n" for shard in shards))
    with pipeline:
        _ = (
            pipeline
            | "Shards" >> beam.io.ReadFromText(work)
            | "Distribute" >> beam.Reshuffle()
            | "Work" >> beam.ParDo(do_fn)
            | "Done" >> beam.io.WriteToText(done, num_shards=1, shard_name_template="")
        )
    with tf.io.gfile.GFile(done) as file:
        return [json.loads(line) for line in file]
