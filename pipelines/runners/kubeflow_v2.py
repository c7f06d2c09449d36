"""byol-pipeline-compile: the same pipeline as a spec for Vertex AI or Kubeflow Pipelines v2.

    byol-pipeline-compile --config=imagenet:100 --data_dir=gs://BUCKET/photos --labels=none \\
        --pipeline_root=gs://BUCKET/pipeline --serving_model_dir=gs://BUCKET/serving \\
        --image=REGISTRY/byol_tf:1 --output=byol.json

The folders are read when the spec runs, not here, so accuracy is measured only with
--labels=folders or a CSV file, and --min_accuracy. Arguments after a bare -- go to Beam:
byol-pipeline-compile ... -- --runner=DataflowRunner --project=PROJECT --region=REGION \\
    --temp_location=gs://BUCKET/tmp --sdk_container_image=REGISTRY/byol_tf:1
"""

import dataclasses
import os
import sys
import uuid

from absl import flags

from byol_tf.cli import import_tensorflow, recipe, run_main
from byol_tf.errors import UserError
from pipelines.runners import flag_settings
from pipelines.settings import LAST, Settings

_FLAGS = flags.FLAGS
_SUFFIXES = (".json", ".yaml", ".yml")


def define() -> None:
    """Defines the flags of every runner, and those of the spec."""
    flag_settings.define()
    flags.DEFINE_string(
        "output",
        None,
        "File to write: .json for a pipeline job, as Vertex AI takes it; .yaml for its pipeline "
        "spec, as Kubeflow takes it.",
        required=True,
    )
    flags.DEFINE_string(
        "image",
        None,
        "Container image in which every component runs; it must have this version of "
        "byol_tf[pipeline].",
        required=True,
    )
    flags.DEFINE_string(
        "records_schema_file",
        None,
        "Path of the package's records.pbtxt for the container: in the image, or a copy on a file "
        "system that the container can read. By default the path in this installation, which fits "
        "an image with the same layout.",
    )
    flags.DEFINE_string(
        "data_version",
        "",
        "Any name for the current state of the data. Components that have run with the same name, "
        "code and settings are then taken from the cache. Without it nothing is cached, because "
        "the platform cannot tell whether images have been added to a folder.",
    )


def main(argv: list[str]) -> None:
    """Runs the command; see `--help`."""
    flag_settings.require_tfx()
    # From 2.68 on Beam's DirectRunner downloads Prism, a program to run in; not for pipelines with
    # this flag, which changes nothing else for ours: they have no triggers.
    beam_args = [*argv[1:], "--allow_unsafe_triggers"]
    settings = flag_settings.from_flags(flag_settings.resolved_config(), beam_args, folder=None)
    settings = dataclasses.replace(
        settings,
        records_schema_file=_FLAGS.records_schema_file or settings.records_schema_file,
        listing_digest=_FLAGS.data_version,
        embed_listing_digest=_FLAGS.data_version,
        enable_cache=settings.enable_cache and bool(_FLAGS.data_version),
    )
    tasks = compile_pipeline(settings, _FLAGS.image, _FLAGS.output)
    print(f"Compiled {tasks} tasks into {_FLAGS.output}; nothing has been run.")


def run() -> None:
    """Console entry point."""
    sys.argv = recipe.with_config_paths(sys.argv)
    define()
    run_main(main, passes_on="Beam")


def compile_pipeline(settings: Settings, image: str, output: str) -> int:
    """Writes the spec of `create_pipeline(settings)`; returns the number of its tasks.

    Args:
        settings: Settings without `compare_with_last_run`, for which Kubeflow has no resolver.
        image: Name of a container image.
        output: Local path that ends with .json, .yaml or .yml; the file is written atomically.

    Raises:
        UserError: The settings need something that Kubeflow cannot run, or `output` cannot be
            written.
    """
    if not output.endswith(_SUFFIXES):
        raise UserError(
            f"--output is '{output}'; give a file that ends with {', '.join(_SUFFIXES)}."
        )
    if settings.infra_validator != "none":
        raise UserError(
            f"--infra_validator={settings.infra_validator} cannot be compiled: TFX has no "
            "InfraValidator for Kubeflow v2; omit the flag to use ServingCheck instead."
        )
    if settings.weights == LAST:
        raise UserError(
            "encoder.weights is 'last', the encoder pushed last, which Kubeflow v2 cannot look up; "
            "give the path of its SavedModel."
        )
    folder, name = os.path.split(os.path.abspath(output))
    temporary = os.path.join(folder, f".{uuid.uuid4().hex[:8]}.{name}")  # TFX looks at the suffix.
    try:
        os.makedirs(folder, exist_ok=True)
        open(temporary, "x").close()
    except OSError as error:
        raise UserError(
            f"--output '{output}' cannot be written ({error.strerror}); choose another path."
        ) from error
    try:
        # Slow, so imported only after the flags have been checked.
        import_tensorflow()
        from tfx import v1 as tfx

        from pipelines.pipeline import create_pipeline

        config = tfx.orchestration.experimental.KubeflowV2DagRunnerConfig(
            display_name=settings.name,
            default_image=image,
            use_pipeline_spec_2_1=True,  # Kubeflow's own backend does not take 2.0.
        )
        runner = tfx.orchestration.experimental.KubeflowV2DagRunner(
            config, folder, os.path.basename(temporary)
        )
        job = runner.run(create_pipeline(settings))
        os.replace(temporary, output)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)
    return len(job["pipelineSpec"]["root"]["dag"]["tasks"])


if __name__ == "__main__":
    run()
