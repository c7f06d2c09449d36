"""byol-pipeline-compile: the same pipeline as a spec for Vertex AI or Kubeflow Pipelines v2.

    byol-pipeline-compile --config=imagenet:100 --data_dir=gs://BUCKET/photos --labels=none \\
        --pipeline_root=gs://BUCKET/pipeline --serving_model_dir=gs://BUCKET/serving \\
        --image=REGISTRY/byol_tf:1 --output=byol.json

The folders are looked at when the spec runs, not here. What follows a bare -- goes to Beam:
byol-pipeline-compile ... -- --runner=DataflowRunner --project=PROJECT --region=REGION \\
    --temp_location=gs://BUCKET/tmp --sdk_container_image=REGISTRY/byol_tf:1
"""

import dataclasses
import os
import sys
import uuid

from absl import flags

from byol_tf.cli import recipe, run_main
from byol_tf.errors import UserError
from pipelines.runners import flag_settings

_FLAGS = flags.FLAGS
_SUFFIXES = (".json", ".yaml", ".yml")


def define() -> None:
    """Defines the flags: those of every runner, and where and in what the spec is to run."""
    flag_settings.define()
    flags.DEFINE_string(
        "output",
        None,
        "The file to write: .json is a whole pipeline job, as Vertex AI takes it; .yaml its "
        "pipeline spec, as Kubeflow takes it.",
        required=True,
    )
    flags.DEFINE_string(
        "image",
        None,
        "The container image that every component runs in; it has byol_tf[pipeline] of this "
        "version.",
        required=True,
    )
    flags.DEFINE_string(
        "records_schema_file",
        None,
        "The package's records.pbtxt as the container sees it: its path in the image, or a copy on "
        "a file system that it reads. By default the path in this installation, which is right "
        "where the image has the same layout.",
    )
    flags.DEFINE_string(
        "data_version",
        "",
        "Any name for what the data are now. What has run with the same name, code and settings is "
        "then taken from the cache. Without it nothing is cached, for the platform cannot tell "
        "whether images have been added to a folder.",
    )


def main(argv: list[str]) -> None:
    """Runs the command; see `--help`."""
    settings = flag_settings.from_flags(flag_settings.resolved_config(), argv[1:], listed=False)
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


def compile_pipeline(settings, image: str, output: str) -> int:
    """Writes the spec of `create_pipeline(settings)`; returns the number of its tasks.

    Args:
        settings: with `compare_with_last_run` off, for Kubeflow has no resolver for it.
        image: a container image.
        output: a local path that ends with .json, .yaml or .yml; appears when it is whole.

    Raises:
        UserError: the settings ask for what Kubeflow cannot run, or `output` cannot be written.
    """
    if not output.endswith(_SUFFIXES):
        raise UserError(
            f"--output is '{output}'; give a file that ends with {', '.join(_SUFFIXES)}."
        )
    if settings.infra_validator != "none":
        raise UserError(
            f"--infra_validator={settings.infra_validator} cannot be compiled: TFX has no "
            "InfraValidator for Kubeflow v2; leave the flag out, and ServingCheck does its work."
        )
    folder, name = os.path.split(os.path.abspath(output))
    temporary = os.path.join(folder, f".{uuid.uuid4().hex[:8]}.{name}")  # TFX goes by the suffix.
    try:
        os.makedirs(folder, exist_ok=True)
        open(temporary, "x").close()
    except OSError as error:
        raise UserError(
            f"--output '{output}' cannot be written ({error.strerror}); choose another path."
        ) from error
    try:
        # Now that nothing is wrong with the flags.
        from tfx.orchestration.kubeflow.v2 import kubeflow_v2_dag_runner

        from pipelines.pipeline import create_pipeline

        config = kubeflow_v2_dag_runner.KubeflowV2DagRunnerConfig(
            display_name=settings.name,
            default_image=image,
            use_pipeline_spec_2_1=True,  # Vertex AI takes 2.0 too, Kubeflow's own backend does not.
        )
        runner = kubeflow_v2_dag_runner.KubeflowV2DagRunner(
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
