"""Executor of ImageExampleGen: lists the images, lets Beam read them, counts the corrupt."""

import os

import tensorflow as tf
from absl import logging
from google.protobuf import json_format, struct_pb2
from tfx.components.example_gen import base_example_gen_executor, utils
from tfx.components.util import examples_utils
from tfx.proto import example_gen_pb2
from tfx.types import artifact_utils, standard_component_specs

from byol_tf.errors import UserError
from byol_tf.sources.corrupt import allowed_corrupt
from pipelines.images import listing
from pipelines.images.run_shards import run_shards
from pipelines.images.shards import WriteShard

QUARANTINE = "quarantine.tsv"
_NAMED = 20  # Corrupt images named in the artifact's property; the quarantine file has all.


class Executor(base_example_gen_executor.BaseExampleGenExecutor):
    """Writes `Split-<name>/data_tfrecord-*.gz`, and `quarantine.tsv` of the corrupt images.

    The stock executor shuffles records through a GroupByKey, which DirectRunner holds in memory.
    Here Beam shuffles the paths, and each shard's images pass through one worker, one by one.
    """

    def GetInputSourceToExamplePTransform(self):
        raise NotImplementedError("Do writes the splits itself.")

    def Do(self, input_dict, output_dict, exec_properties):
        self._log_startup(input_dict, output_dict, exec_properties)
        options = _options(exec_properties)
        examples = artifact_utils.get_single_instance(
            output_dict[standard_component_specs.EXAMPLES_KEY]
        )
        input_base = exec_properties[standard_component_specs.INPUT_BASE_KEY]
        patterns, buckets = _splits(exec_properties)
        files = {
            name: listing.find_files(input_base, pattern) for name, pattern in patterns.items()
        }
        _check_found(files, patterns, input_base)
        classes = listing.class_names(files, options["labels"], input_base)
        split_names = list(buckets or patterns)
        examples.split_names = artifact_utils.encode_split_names(split_names)
        split_uris = {name: artifact_utils.get_split_uri([examples], name) for name in split_names}
        results = self._write(listing.plan(files, buckets, classes), split_uris)
        self._report(examples, results, split_names, input_base, options["max_corrupt_fraction"])
        examples_utils.set_payload_format(examples, example_gen_pb2.FORMAT_TF_EXAMPLE)

    def _write(self, shards, split_uris) -> list[dict]:
        for uri in split_uris.values():
            tf.io.gfile.makedirs(uri)
        folder = self._get_tmp_dir() if self._context else os.path.dirname(uri)
        return run_shards(self._make_beam_pipeline(), shards, WriteShard(split_uris), folder)

    def _report(self, artifact, results, split_names, input_base, max_corrupt_fraction) -> None:
        """Counts into the artifact's properties; raises if too much is corrupt or nothing left."""
        for result in results:
            if "unreadable" in result:
                path, reason = result["unreadable"]
                raise UserError(f"the records '{path}' cannot be read ({reason}); remove the file.")
        counts = {
            name: sum(result["examples"] for result in results if result["split"] == name)
            for name in split_names
        }
        corrupt = sorted(
            (_printable(key), reason) for result in results for key, reason in result["corrupt"]
        )
        for key, reason in corrupt:
            logging.warning("%s: skipping the corrupt image %s (%s)", input_base, key, reason)
        total = sum(counts.values()) + len(corrupt)
        such_as = f"such as {corrupt[0][0]}: {corrupt[0][1]}" if corrupt else ""
        if len(corrupt) > allowed_corrupt(max_corrupt_fraction, total):
            raise UserError(
                f"{len(corrupt)} of the {total} images in '{input_base}' are corrupt, more than "
                f"--max_corrupt_fraction={max_corrupt_fraction:g} allows ({such_as}); remove them, "
                "as named in the log, or allow more."
            )
        for name, count in counts.items():
            if not count:
                raise UserError(
                    f"the split '{name}' of '{input_base}' has no readable image"
                    f"{f' ({such_as})' if corrupt else ''}; give more images, or other splits."
                )
        with tf.io.gfile.GFile(os.path.join(artifact.uri, QUARANTINE), "w") as file:
            file.write("".join(f"{key}\t{reason}\n" for key, reason in corrupt))
        artifact.set_json_value_custom_property("num_examples", counts)
        artifact.set_int_custom_property("num_corrupt", len(corrupt))
        artifact.set_json_value_custom_property("corrupt", [key for key, _ in corrupt[:_NAMED]])


def _options(exec_properties) -> dict:
    """What `component.ImageExampleGen` packed into custom_config."""
    custom_config = example_gen_pb2.CustomConfig()
    json_format.Parse(exec_properties[standard_component_specs.CUSTOM_CONFIG_KEY], custom_config)
    options = struct_pb2.Struct()
    custom_config.custom_config.Unpack(options)
    return json_format.MessageToDict(options)


def _splits(exec_properties) -> tuple[dict[str, str], dict[str, int]]:
    """Patterns of the input splits, and buckets of the output splits, if any."""
    input_config, output_config = example_gen_pb2.Input(), example_gen_pb2.Output()
    json_format.Parse(exec_properties[standard_component_specs.INPUT_CONFIG_KEY], input_config)
    json_format.Parse(exec_properties[standard_component_specs.OUTPUT_CONFIG_KEY], output_config)
    utils.generate_output_split_names(input_config, output_config)  # Checks them.
    return (
        {split.name: split.pattern for split in input_config.splits},
        {split.name: split.hash_buckets for split in output_config.split_config.splits},
    )


def _printable(name: str) -> str:
    """A file's name on one line; it need not be Unicode."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def _check_found(files, patterns, input_base) -> None:
    for name, found in files.items():
        if not found:
            raise UserError(
                f"'{input_base}' holds no images (jpg, jpeg, png, bmp, gif) and no TFRecords that "
                f"match the split '{name}' ({patterns[name]}); correct the folder or the pattern."
            )
