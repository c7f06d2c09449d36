"""ImageExampleGen: reads a folder of images into tf.Examples, with splits, spans and versions."""

from google.protobuf import struct_pb2
from tfx import v1 as tfx
from tfx.components.example_gen.component import FileBasedExampleGen
from tfx.dsl.components.base import executor_spec

from pipelines.components.image_example_gen import driver, executor
from pipelines.settings import DEFAULT_SPLITS


class ImageExampleGen(FileBasedExampleGen):
    """A FileBasedExampleGen that reads images, or TFRecords of images.

    The output `examples` has the features that `shards.ImageReader.example` lists, and the custom
    properties `num_examples` (by split), `num_corrupt` and `corrupt` (the first names). Its folder
    also contains `quarantine.tsv`: the name of each corrupt image, and what is wrong with it; and
    `not_read.txt`: sentences that count links and files of other kinds.

    Args:
        input_base: Folder on any file system that Beam supports.
        input_config: Splits and their patterns, with {SPAN} and {VERSION} as in TFX; `**` includes
            subfolders. By default one split of all files, `**`.
        output_config: Names and hash buckets that divide a single input split. Images are put into
            buckets by the hash of their path below `input_base`. By default train 9, eval 1.
        range_config: Span to read.
        labels: `folders`, `none`, or the path of a CSV file with the columns path and label.
        max_corrupt_fraction: Largest allowed fraction of corrupt images, in [0, 1].
        channels, bit_depth: What training and serving decode images to; a file that cannot be
            decoded to it is corrupt.
        versions: Digests by name that stand for what TFX's cache does not see: the code, and the
            names of the files (TFX reads sizes and times only).
    """

    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)
    DRIVER_CLASS = driver.Driver

    def __init__(
        self,
        input_base: str,
        input_config: tfx.proto.Input | None = None,
        output_config: tfx.proto.Output | None = None,
        range_config: tfx.proto.RangeConfig | None = None,
        *,
        labels: str,
        max_corrupt_fraction: float,
        channels: int = 3,
        bit_depth: int = 8,
        versions: dict[str, str] | None = None,
    ):
        everything = tfx.proto.Input.Split(name="all", pattern="**")
        input_config = input_config or tfx.proto.Input(splits=[everything])
        if output_config is None and len(input_config.splits) == 1:
            split = tfx.proto.SplitConfig.Split
            output_config = tfx.proto.Output(
                split_config=tfx.proto.SplitConfig(
                    splits=[split(name=n, hash_buckets=b) for n, b in DEFAULT_SPLITS.items()]
                )
            )
        options = struct_pb2.Struct()
        options.update(
            {
                "labels": labels,
                "max_corrupt_fraction": max_corrupt_fraction,
                "channels": channels,
                "bit_depth": bit_depth,
            }
            | (versions or {})
        )
        custom_config = tfx.proto.CustomConfig()
        custom_config.custom_config.Pack(options)
        super().__init__(
            input_base=input_base,
            input_config=input_config,
            output_config=output_config or tfx.proto.Output(),
            range_config=range_config,
            custom_config=custom_config,
        )
