"""Executor of ImageExampleGen: lists the images, reads them through Beam, counts corrupt ones."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import tensorflow as tf
from absl import logging
from google.protobuf import json_format, struct_pb2
from tfx import v1 as tfx
from tfx.components.example_gen import base_example_gen_executor, utils
from tfx.components.util import examples_utils
from tfx.types import artifact_utils, standard_component_specs

from byol_tf.errors import UserError
from byol_tf.sources.corrupt import allowed_corrupt
from byol_tf.sources.folder import IMAGE_EXTENSIONS
from byol_tf.sources.unread import Unread, printable
from pipelines.images import listing
from pipelines.images.run_shards import run_shards
from pipelines.images.shards import WriteShard
from pipelines.settings import LABELS, canonical

QUARANTINE = "quarantine.tsv"
NOT_READ = "not_read.txt"
_NAMED = 20  # Corrupt images named in the artifact's property; the quarantine file lists all.


class Executor(base_example_gen_executor.BaseExampleGenExecutor):
    """Writes `Split-<name>/data_tfrecord-*.gz`, and `quarantine.tsv` of the corrupt images.

    `not_read.txt` has what else is not read, in at most two sentences.

    TFX's own executor shuffles records through a GroupByKey, which DirectRunner holds in memory.
    Here Beam shuffles the paths, and a worker reads the images of a shard one after the other.
    """

    def GetInputSourceToExamplePTransform(self) -> NoReturn:
        """Raises, because `Do` writes the splits itself; the base class declares it abstract."""
        raise NotImplementedError("Do writes the splits itself.")

    def Do(
        self,
        input_dict: dict[str, list[tfx.dsl.Artifact]],
        output_dict: dict[str, list[tfx.dsl.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Writes the shards of all splits and the artifact's properties."""
        self._log_startup(input_dict, output_dict, exec_properties)
        options = _options(exec_properties)
        examples = artifact_utils.get_single_instance(
            output_dict[standard_component_specs.EXAMPLES_KEY]
        )
        # Both may be links of `runners.input_links`; messages name the user's own paths.
        input_base = canonical(exec_properties[standard_component_specs.INPUT_BASE_KEY])
        labels = options["labels"]
        if labels not in LABELS:
            labels = canonical(labels)
        patterns, buckets = _splits(exec_properties)
        unread = Unread()
        files = {
            name: listing.find_files(input_base, pattern, unread)
            for name, pattern in patterns.items()
        }
        for sentence in unread.sentences():
            logging.warning("%s: %s", input_base, sentence)
        _check_found(files, patterns, input_base)
        classes = listing.class_names(files, labels, input_base)
        split_names = list(buckets or patterns)
        examples.split_names = artifact_utils.encode_split_names(split_names)
        split_uris = {name: artifact_utils.get_split_uri([examples], name) for name in split_names}
        # A protobuf Struct has no whole numbers.
        channels, bit_depth = int(options["channels"]), int(options["bit_depth"])
        do_fn = WriteShard(split_uris, channels, bit_depth)
        results = self._write(listing.plan(files, buckets, classes), split_uris, do_fn)
        self._report(examples, results, split_names, input_base, options["max_corrupt_fraction"])
        with tf.io.gfile.GFile(os.path.join(examples.uri, NOT_READ), "w") as file:
            file.write("".join(f"{sentence}\n" for sentence in unread.sentences()))
        examples_utils.set_payload_format(examples, tfx.proto.PayloadFormat.FORMAT_TF_EXAMPLE)

    def _write(
        self, shards: list[listing.Shard], split_uris: dict[str, str], do_fn: WriteShard
    ) -> list[dict]:
        for uri in split_uris.values():
            tf.io.gfile.makedirs(uri)
        folder = self._get_tmp_dir() if self._context else os.path.dirname(uri)
        return run_shards(self._make_beam_pipeline(), shards, do_fn, folder)

    def _report(
        self,
        examples: tfx.dsl.Artifact,
        results: list[dict],
        split_names: list[str],
        input_base: str,
        max_corrupt_fraction: float,
    ) -> None:
        """Writes counts to the artifact's properties; raises if too many images are corrupt."""
        for result in results:
            if "unreadable" in result:
                path, reason = result["unreadable"]
                raise UserError(f"the records '{path}' cannot be read ({reason}); remove the file.")
        counts = {
            name: sum(result["examples"] for result in results if result["split"] == name)
            for name in split_names
        }
        corrupt = sorted(
            (printable(key), reason) for result in results for key, reason in result["corrupt"]
        )
        for key, reason in corrupt:
            logging.warning("%s: skipping the corrupt image %s (%s)", input_base, key, reason)
        total = sum(counts.values()) + len(corrupt)
        such_as = f"such as {corrupt[0][0]}: {corrupt[0][1]}" if corrupt else ""
        if len(corrupt) > allowed_corrupt(max_corrupt_fraction, total):
            raise UserError(
                f"{len(corrupt)} of the {total} images in '{input_base}' are corrupt, more than "
                f"--max_corrupt_fraction={max_corrupt_fraction:g} allows ({such_as}); remove those "
                "that the log names, or allow more."
            )
        for name, count in counts.items():
            if not count:
                raise UserError(
                    f"the split '{name}' of '{input_base}' has no readable image"
                    f"{f' ({such_as})' if corrupt else ''}; give more images, or other splits."
                )
        with tf.io.gfile.GFile(os.path.join(examples.uri, QUARANTINE), "w") as file:
            file.write("".join(f"{key}\t{reason}\n" for key, reason in corrupt))
        examples.set_json_value_custom_property("num_examples", counts)
        examples.set_int_custom_property("num_corrupt", len(corrupt))
        examples.set_json_value_custom_property("corrupt", [key for key, _ in corrupt[:_NAMED]])


def _options(exec_properties: Mapping[str, Any]) -> dict:
    """Returns the options that `component.ImageExampleGen` packed into custom_config."""
    custom_config = tfx.proto.CustomConfig()
    json_format.Parse(exec_properties[standard_component_specs.CUSTOM_CONFIG_KEY], custom_config)
    options = struct_pb2.Struct()
    custom_config.custom_config.Unpack(options)
    return json_format.MessageToDict(options)


def _splits(exec_properties: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, int]]:
    """Returns the patterns of the input splits, and the buckets of the output splits, if any."""
    input_config, output_config = tfx.proto.Input(), tfx.proto.Output()
    json_format.Parse(exec_properties[standard_component_specs.INPUT_CONFIG_KEY], input_config)
    json_format.Parse(exec_properties[standard_component_specs.OUTPUT_CONFIG_KEY], output_config)
    utils.generate_output_split_names(input_config, output_config)  # Validates them.
    return (
        {split.name: split.pattern for split in input_config.splits},
        {split.name: split.hash_buckets for split in output_config.split_config.splits},
    )


def _check_found(
    files: Mapping[str, Sequence[listing.File]], patterns: Mapping[str, str], input_base: str
) -> None:
    for name, found in files.items():
        if not found:
            kinds = ", ".join(extension[1:] for extension in IMAGE_EXTENSIONS)
            raise UserError(
                f"'{input_base}' holds no images ({kinds}) and no TFRecords that "
                f"match the split '{name}' ({patterns[name]}); correct the folder or the pattern."
            )
