"""The compiled spec: parsed by Kubeflow's protos, its tasks run as the platform runs them."""

import itertools
import json
import pathlib
import subprocess
import sys

import pytest
from quick_recipe import quick

from byol_tf.configs import cifar10
from pipelines.runners import kubeflow_v2
from pipelines.settings import Settings

IMAGE = "registry.example/byol_tf:1"
BEAM_ARGS = ("--runner=DataflowRunner", "--project=ours", "--temp_location=gs://bucket/tmp")
COMMAND = [sys.executable, "-m", "pipelines.runners.kubeflow_v2"]
FLAGS = {
    "config": "cifar10",
    "data_dir": "gs://bucket/photos",
    "pipeline_root": "gs://bucket/pipeline",
    "serving_model_dir": "gs://bucket/serving",
    "image": IMAGE,
    "output": "byol.json",
    "labels": "folders",
    "min_accuracy": "0.5",
}


def settings(labels: str, **fields) -> Settings:
    config = quick(cifar10.get_config).to_dict()
    return Settings(
        **{
            "data_dir": "gs://bucket/photos",
            "pipeline_root": "gs://bucket/pipeline",
            "serving_model_dir": "gs://bucket/serving",
            "config": config,
            "labels": labels,
            "labelled": labels != "none",
            "compare_with_last_run": False,
            "embed_data_dir": "gs://bucket/corpus",
            "beam_args": BEAM_ARGS,
        }
        | fields
    )


def command(tmp_path: pathlib.Path, **changes) -> subprocess.CompletedProcess:
    given = {name: value for name, value in (FLAGS | changes).items() if value is not None}
    arguments = [f"--{name}={value}" for name, value in given.items()]
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
        env={"PYTHONPATH": str(pathlib.Path(__file__).parents[3])},
    )


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"min_accuracy": None}, "--min_accuracy is missing"),
        ({"infra_validator": "docker"}, "--infra_validator=docker cannot be compiled"),
        ({"output": "byol.txt"}, "--output is 'byol.txt'; give a file that ends with .json"),
        ({"output": "/dev/null/byol.json"}, "--output '/dev/null/byol.json' cannot be written"),
        ({"config.encoder.weights": "last"}, "which Kubeflow v2 cannot look up"),
        ({"image": None}, "--image"),
        ({"output": None}, "--output"),
    ],
)
def test_what_cannot_be_compiled_gets_a_sentence_and_no_file(tmp_path, changes, sentence):
    result = command(tmp_path, **changes)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ") and sentence in line
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("labels", "judges"),
    [
        ("folders", {"LinearProbe", "Evaluator"}),
        ("auto", {"LinearProbe", "Evaluator", "RepresentationCheck"}),
        ("none", {"RepresentationCheck"}),
    ],
)
def test_the_spec_is_kubeflows_and_has_every_component(tmp_path, labels, judges):
    from google.protobuf import json_format
    from kfp.pipeline_spec import pipeline_spec_pb2

    from pipelines.pipeline import create_pipeline

    path = tmp_path / "made" / "byol.json"
    kubeflow_v2.compile_pipeline(settings(labels), IMAGE, str(path))
    assert list(path.parent.iterdir()) == [path]

    job = json_format.ParseDict(json.loads(path.read_text()), pipeline_spec_pb2.PipelineJob())
    spec = json_format.ParseDict(
        json_format.MessageToDict(job.pipeline_spec), pipeline_spec_pb2.PipelineSpec()
    )
    deployment = json_format.ParseDict(
        json_format.MessageToDict(spec.deployment_spec),
        pipeline_spec_pb2.PipelineDeploymentConfig(),
    )
    assert job.runtime_config.gcs_output_directory == "gs://bucket/pipeline"
    assert spec.schema_version == "2.1.0"

    tasks = spec.root.dag.tasks
    expected = {component.id for component in create_pipeline(settings(labels)).components}
    resolved = {"LastBlessedModel-model-resolver", "LastBlessedModel-model-blessing-resolver"}
    assert set(tasks) == expected - {"LastBlessedModel"} | resolved
    assert judges == tasks.keys() & {"LinearProbe", "Evaluator", "RepresentationCheck"}
    # Labels that nobody asked for do not decide, and their verdict is no baseline for later runs.
    decides = tasks["ModelPusher"].inputs.artifacts["model_blessing"].task_output_artifact
    asked = labels == "folders"
    assert decides.producer_task == ("Evaluator" if asked else "RepresentationCheck")
    if "Evaluator" in tasks:
        inputs = tasks["Evaluator"].inputs
        assert ("lower_bound" in str(inputs.parameters["eval_config"])) == asked
        assert ("baseline_model" in inputs.artifacts) == asked
    assert "DataGate" in tasks["Transform"].dependent_tasks

    for name, task in tasks.items():
        assert name in spec.components and set(task.dependent_tasks) <= set(tasks)
        for artifact in task.inputs.artifacts.values():
            source = artifact.task_output_artifact
            outputs = spec.components[source.producer_task].output_definitions.artifacts
            assert source.output_artifact_key in outputs
        if name not in resolved:
            container = deployment.executors[spec.components[name].executor_label].container
            assert container.image == IMAGE
            assert tuple(container.args[-len(BEAM_ARGS) :]) == BEAM_ARGS


@pytest.mark.slow
def test_the_command_writes_yaml_and_what_flags_say(tmp_path):
    import yaml

    result = command(
        tmp_path, output="byol.yaml", data_version="may", records_schema_file="/opt/records.pbtxt"
    )
    assert result.returncode == 0, result.stderr
    spec = yaml.safe_load((tmp_path / "byol.yaml").read_text())
    tasks = spec["root"]["dag"]["tasks"]
    assert result.stdout == f"Compiled {len(tasks)} tasks into byol.yaml; nothing has been run.\n"

    def parameter(task, name):
        return tasks[task]["inputs"]["parameters"][name]["runtimeValue"]["constant"]

    assert parameter("RecordsSchema", "schema_file") == "/opt/records.pbtxt"
    assert '"listing": "may"' in parameter("ImageExampleGen", "custom_config")
    assert '"lower_bound": 0.5' in parameter("Evaluator", "eval_config")
    assert tasks["Trainer"]["cachingOptions"] == {"enableCache": True}

    command(tmp_path, output="byol.yaml")
    spec = yaml.safe_load((tmp_path / "byol.yaml").read_text())
    assert not any("cachingOptions" in task for task in spec["root"]["dag"]["tasks"].values())


@pytest.mark.slow
# test_local.py runs the unlabelled pipeline's components, and the spec above has them.
@pytest.mark.parametrize("labelled", [True, pytest.param(False, marks=pytest.mark.exhaustive)])
def test_tasks_run_from_the_spec_to_a_pushed_model(tmp_path, images_dir, labelled):
    images = tmp_path / "images"
    for split, count in (("train", 6), ("test", 2)):
        for folder in (images_dir / split).iterdir():
            (images / split / folder.name).mkdir(parents=True)
            for file in itertools.islice(sorted(folder.iterdir()), count):
                (images / split / folder.name / file.name).symlink_to(file)
    serving, output = tmp_path / "serving", tmp_path / "byol.json"
    kubeflow_v2.compile_pipeline(
        settings(
            "folders" if labelled else "none",
            data_dir=str(images),
            input_splits={"train": "train/**", "eval": "test/**"},
            pipeline_root=str(tmp_path / "root"),
            serving_model_dir=str(serving),
            embed_data_dir=str(images / "test"),
            min_spread=0.0,
            beam_args=("--sdk_container_image=unused",),
        ),
        IMAGE,
        str(output),
    )
    artifacts = run_as_kubeflow(json.loads(output.read_text()), tmp_path / "run")
    (version,) = (serving / "byol").iterdir()
    assert (version / "saved_model.pb").exists()
    # These numbers and flags went through the platform's JSON.
    assert artifacts["CorpusEmbedder", "embeddings"]["metadata"]["num_images"] == 20
    blessing = artifacts["Evaluator" if labelled else "RepresentationCheck", "blessing"]
    assert blessing["metadata"]["blessed"] == 1
    model = artifacts["LinearProbe" if labelled else "Trainer", "model"]
    assert blessing["metadata"]["current_model_id"] == model["name"]


def run_as_kubeflow(job: dict, root: pathlib.Path) -> dict:
    """Runs the tasks through the containers' entry points; returns the artifacts.

    Plays the part of the platform: each task gets its ExecutorInput as JSON, instead of the
    placeholder in the container's arguments, and answers with an ExecutorOutput. Resolvers find
    nothing, as in a first run.
    """
    from tfx.orchestration.kubeflow.v2.container import kubeflow_v2_run_executor as entry
    from tfx.orchestration.kubeflow.v2.file_based_example_gen import driver

    spec = job["pipelineSpec"]
    waiting, artifacts = dict(spec["root"]["dag"]["tasks"]), {}
    while waiting:
        name = next(n for n in waiting if not waiting.keys() & _upstream(waiting[n]))
        task = waiting.pop(name)
        component = spec["components"][task["componentRef"]["name"]]
        executor = spec["deploymentSpec"]["executors"][component["executorLabel"]]
        if "resolver" in executor:
            continue
        answer = root / name / "executor_output.json"
        outputs = {
            key: {
                "name": f"projects/1/artifacts/{name}.{key}",
                "uri": str(root / name / key),
                "type": definition["artifactType"],
            }
            for key, definition in component["outputDefinitions"]["artifacts"].items()
        }
        for one in outputs.values():  # On an object store folders need not be made.
            pathlib.Path(one["uri"]).mkdir(parents=True)
        inputs = task.get("inputs", {})
        found = {
            key: artifacts.get(tuple(_source(ref)))
            for key, ref in inputs.get("artifacts", {}).items()
        }
        invocation = {
            "inputs": {
                "artifacts": {
                    key: {"artifacts": [one] if one else []} for key, one in found.items()
                },
                "parameterValues": {
                    key: value["runtimeValue"]["constant"]
                    for key, value in inputs.get("parameters", {}).items()
                },
            },
            "outputs": {
                "artifacts": {key: {"artifacts": [one]} for key, one in outputs.items()},
                "outputFile": str(answer),
            },
        }

        def arguments(container, invocation=invocation):
            return [json.dumps(invocation) if a == "{{$}}" else a for a in container["args"]]

        container = executor["container"]
        if "lifecycle" in container:
            driver.main(driver._parse_flags(arguments(container["lifecycle"]["preCacheCheck"])))
        entry.main(entry._parse_flags(arguments(container)))
        written = json.loads(answer.read_text())["artifacts"]
        for key, one in outputs.items():
            artifacts[name, key] = one | written[key]["artifacts"][0] | {"type": one["type"]}
    return artifacts


def _source(reference: dict) -> tuple[str, str]:
    output = reference["taskOutputArtifact"]
    return output["producerTask"], output["outputArtifactKey"]


def _upstream(task: dict) -> set[str]:
    references = task.get("inputs", {}).get("artifacts", {}).values()
    return {*task.get("dependentTasks", []), *(_source(ref)[0] for ref in references)}
