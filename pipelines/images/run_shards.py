"""Shards through Beam: what ImageExampleGen and CorpusEmbedder have in common."""

import json
import os
from collections.abc import Iterable

import apache_beam as beam
import tensorflow as tf

from pipelines.images.listing import Shard


def run_shards(
    pipeline: beam.Pipeline, shards: Iterable[Shard], do_fn: beam.DoFn, folder: str
) -> list[dict]:
    """Runs `do_fn`, from a shard's JSON to JSON, on each shard; returns what it yields.

    Args:
        pipeline: not yet run.
        shards: the work, which Beam distributes.
        do_fn: what to do.
        folder: for the lists of work and of results, on a file system that the workers see.
    """
    # Files and not beam.Create, whose elements travel inside the job's graph.
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
