"""ImageExampleGen: a folder of images as tf.Examples, in splits, with spans and versions."""

from google.protobuf import struct_pb2
from tfx.components.example_gen.component import FileBasedExampleGen
from tfx.dsl.components.base import executor_spec
from tfx.proto import example_gen_pb2, range_config_pb2

from pipelines.components.image_example_gen import executor


class ImageExampleGen(FileBasedExampleGen):
    """A FileBasedExampleGen that reads images, or TFRecords of them.

    Its outputs' `examples` have the features that `shards.ImageReader.example` lists. Custom
    properties of the artifact: `num_examples` (by split), `num_corrupt`, `corrupt` (the first
    names); beside the splits lies `quarantine.tsv` with the name of each corrupt image and what is
    wrong with it.

    Args:
        input_base: a folder on any file system that Beam knows.
        input_config: splits and their patterns, with {SPAN} and {VERSION} as in TFX; `**` goes
            through folders. By default one split of everything, `**`.
        output_config: where the input is one split: names and hash buckets. Images are put into
            buckets by the hash of their path below `input_base`. By default train 9, eval 1.
        range_config: which span.
        labels: `folders`, `none`, or the path of a CSV file with the columns path and label.
        max_corrupt_fraction: in [0, 1].
        versions: strings by name that stand for what TFX's cache does not see: a digest of the
            code, a digest of the names of the files (TFX looks at sizes and times only).
    """

    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)

    def __init__(
        self,
        input_base: str,
        input_config: example_gen_pb2.Input | None = None,
        output_config: example_gen_pb2.Output | None = None,
        range_config: range_config_pb2.RangeConfig | None = None,
        *,
        labels: str = "folders",
        max_corrupt_fraction: float = 0.01,
        versions: dict[str, str] | None = None,
    ):
        everything = example_gen_pb2.Input.Split(name="all", pattern="**")
        input_config = input_config or example_gen_pb2.Input(splits=[everything])
        if output_config is None and len(input_config.splits) == 1:
            split = example_gen_pb2.SplitConfig.Split
            output_config = example_gen_pb2.Output(
                split_config=example_gen_pb2.SplitConfig(
                    splits=[split(name="train", hash_buckets=9), split(name="eval", hash_buckets=1)]
                )
            )
        options = struct_pb2.Struct()
        options.update(
            {"labels": labels, "max_corrupt_fraction": max_corrupt_fraction} | (versions or {})
        )
        custom_config = example_gen_pb2.CustomConfig()
        custom_config.custom_config.Pack(options)
        super().__init__(
            input_base=input_base,
            input_config=input_config,
            output_config=output_config or example_gen_pb2.Output(),
            range_config=range_config,
            custom_config=custom_config,
        )
