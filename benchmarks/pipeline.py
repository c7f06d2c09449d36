"""Measures the images per second of ingestion and Transform, and the share of TFX in a run's time.

    python benchmarks/pipeline.py --data_dir=DIR        JPEG files, such as CIFAR-10's 50,000
    python benchmarks/pipeline.py --run=PIPELINE_ROOT   time per component of a finished run

Stages, on N files of DIR that have been read once before, each in its own process:
  ingest      ImageExampleGen's executor: list, read, decode to check, write TFRecords, with Beam
  transform   Transform's executor on those records, as in the pipeline
Rivals, a Python loop without TFX and Beam that writes the same records:
  plain-ingest, plain-transform   the same calls on each image, one after the other

Imports are not timed; one-time work is (building the Beam graph, tracing). So seconds per image
fall with N (`growth` is relative to the smallest N). Cost is linear if `further`, the milliseconds
per additional image compared with the next smaller N, is constant. Memory is flat if the peak is
constant.
"""

import argparse
import gzip
import itertools
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING

import recording

if TYPE_CHECKING:
    from tfx import v1 as tfx

    from pipelines.settings import Settings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

SIZES = (1_000, 10_000, 50_000)
STAGES = ("plain-ingest", "ingest", "plain-transform", "transform")
# Groups of nodes in the table of a run.
GROUPS = {
    "data": ("ImageExampleGen", "Transform"),
    "training": ("Trainer",),
    "evaluation": ("LinearProbe", "Evaluator", "RepresentationCheck"),
    "serving": ("ServingCheck", "InfraValidator", "ModelPusher", "CorpusEmbedder"),
}


def settings(images: pathlib.Path) -> "Settings":
    """Returns the settings of a pipeline without labels on a folder of images."""
    from pipelines.settings import Settings

    return Settings(str(images), str(images), str(images), {"image_size": 32}, labels="none")


def execute(
    node_id: str, images: pathlib.Path, folder: pathlib.Path, **inputs: list["tfx.dsl.Artifact"]
) -> dict[str, list["tfx.dsl.Artifact"]]:
    """Runs a node of the pipeline with its own parameters; returns its output artifacts."""
    from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor

    from pipelines.pipeline import create_pipeline

    nodes = {node.id: node for node in create_pipeline(settings(images)).components}
    node = nodes[node_id]
    outputs = {}
    for key, channel in node.outputs.items():
        artifact = channel.type()
        artifact.uri = str(folder / key)
        outputs[key] = [artifact]
    context = BaseBeamExecutor.Context(tmp_dir=str(folder / "tmp"), unique_id="0")
    parameters = {key: value for key, value in node.exec_properties.items() if value is not None}
    node.executor_spec.executor_class(context).Do(inputs, outputs, parameters)
    return outputs


def ingest(images: pathlib.Path, folder: pathlib.Path) -> None:
    """Runs ImageExampleGen's executor."""
    execute("ImageExampleGen", images, folder)


def transform(images: pathlib.Path, folder: pathlib.Path) -> None:
    """Runs Transform's executor on what `ingest` wrote."""
    from tfx.types import artifact_utils
    from tfx.v1.types import standard_artifacts

    from pipelines.settings import RECORDS_SCHEMA

    examples, schema = standard_artifacts.Examples(), standard_artifacts.Schema()
    examples.uri, schema.uri = str(folder.parent / "ingest" / "examples"), str(folder / "schema")
    examples.split_names = artifact_utils.encode_split_names(["train", "eval"])
    os.makedirs(schema.uri)
    shutil.copy(RECORDS_SCHEMA, os.path.join(schema.uri, "schema.pbtxt"))
    execute("Transform", images, folder, examples=[examples], schema=[schema])


def plain_ingest(images: pathlib.Path, folder: pathlib.Path) -> None:
    """Writes the records of `ingest` in one loop."""
    import tensorflow as tf

    from pipelines.images import shards

    reader = shards.ImageReader(channels=3, bit_depth=8)
    folder.mkdir(exist_ok=True)
    options = tf.io.TFRecordOptions(compression_type="GZIP", compression_level=1)
    with tf.io.TFRecordWriter(str(folder / "records.gz"), options) as writer:
        for path in sorted(images.iterdir()):
            example = reader.example(path.read_bytes(), path.name, -1, "")
            writer.write(example.SerializeToString(deterministic=True))


def plain_transform(images: pathlib.Path, folder: pathlib.Path) -> None:
    """Writes the records of `transform` in one loop."""
    import tensorflow as tf

    from pipelines.modules.preprocessing import bound_shorter_side

    shorter_side = settings(images).shorter_side
    bound = tf.function(
        lambda image_bytes: bound_shorter_side(image_bytes, shorter_side),
        input_signature=[tf.TensorSpec([], tf.string)],
    )
    folder.mkdir(exist_ok=True)
    records = tf.data.TFRecordDataset(str(folder.parent / "plain-ingest" / "records.gz"), "GZIP")
    with tf.io.TFRecordWriter(str(folder / "records.gz"), "GZIP") as writer:
        for record in records.as_numpy_iterator():
            example = tf.train.Example.FromString(record)
            values = example.features.feature["image/encoded"].bytes_list.value
            values[0] = bound(values[0]).numpy()
            writer.write(example.SerializeToString())


def work(stage: str, images: pathlib.Path, folder: pathlib.Path) -> dict:
    """Runs a stage in this process; returns its seconds, and peak memory before and after."""
    import tensorflow as tf

    import pipelines.pipeline  # noqa: F401  Imported here, so that imports are not timed.

    def peak() -> int:
        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)

    tf.constant(0) + 1  # Starts TensorFlow's runtime.
    imports = peak()
    start, cpu = time.perf_counter(), time.process_time()
    globals()[stage.replace("-", "_")](images, folder / stage)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return {"seconds": seconds, "cpu_seconds": cpu, "imports_mb": imports, "peak_mb": peak()}


def count_records(folder: pathlib.Path) -> int:
    """Returns the number of records that a stage wrote, by the lengths in TFRecord's framing."""
    total = 0
    for path in folder.rglob("*.gz"):
        with gzip.open(path) as file:
            while header := file.read(12):
                file.read(int.from_bytes(header[:8], "little") + 4)
                total += 1
    return total


def measure(files: list[pathlib.Path], rounds: int) -> dict[str, list[dict]]:
    """Runs each stage on the files, in several rounds; returns the results by stage."""
    results: dict[str, list[dict]] = {stage: [] for stage in STAGES}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as temporary:
            folder = pathlib.Path(temporary)
            images = folder / "images"
            images.mkdir()
            for number, file in enumerate(files):
                (images / f"{number:06d}{file.suffix}").symlink_to(file.resolve())
                file.read_bytes()  # Otherwise only the first stage would wait for the disk.
            for stage in STAGES:
                command = [sys.executable, __file__, f"--stage={stage}", str(images), temporary]
                answer = subprocess.run(command, capture_output=True, text=True)
                if answer.returncode:
                    raise SystemExit(f"{stage} failed:\n{answer.stderr[-3000:]}")
                results[stage].append(json.loads(answer.stdout.splitlines()[-1]))
                # All stages must do the same work to be comparable.
                found = count_records(folder / stage)
                if found != len(files):
                    raise SystemExit(f"{stage} wrote {found} records of {len(files)} images")
    return results


def throughput(data_dir: pathlib.Path, sizes: list[int], rounds: int) -> None:
    """Measures all stages at all sizes; prints and records a table."""
    files = sorted(itertools.chain(data_dir.rglob("*.jpg"), data_dir.rglob("*.jpeg")))
    missing = [size for size in sizes if size > len(files)]
    if missing:
        raise SystemExit(f"{data_dir} has {len(files)} JPEG files, and --sizes has {missing[0]}")
    record = recording.context("tfx", "apache-beam", "tensorflow", "tensorflow-transform")
    record["rounds"], record["sizes"] = rounds, {}
    print(f"{record['cpu']}, {record['cores']} cores, load {record['load']}; {rounds} rounds")
    print(
        f"{'':16}{'images':>8}{'images/s':>10}{'ms/image':>10}{'further':>9}{'growth':>8}"
        f"{'peak MB':>9}{'imports':>9}"
    )
    smallest: dict[str, float] = {}
    before: dict[str, tuple[int, float]] = {}
    for size in sizes:
        # Evenly spaced, so that all classes are included.
        results = measure(files[:: len(files) // size][:size], rounds)
        rows = record["sizes"][str(size)] = {}
        for stage, answers in results.items():
            best = min(answers, key=lambda answer: answer["seconds"])
            each = best["seconds"] / size
            growth = each / smallest.setdefault(stage, each)
            last_size, last_seconds = before.get(stage, (0, 0.0))
            further = (best["seconds"] - last_seconds) / (size - last_size)
            before[stage] = size, best["seconds"]
            rows[stage] = {
                "images_per_s": round(1 / each, 1),
                "rounds_s": [round(answer["seconds"], 2) for answer in answers],
                "cpu_s": round(best["cpu_seconds"], 2),
                "growth": round(growth, 3),
                "further_ms": round(1000 * further, 3),
                "peak_mb": best["peak_mb"],
                "imports_mb": best["imports_mb"],
            }
            print(
                f"{stage:16}{size:>8}{1 / each:>10.0f}{1000 * each:>10.2f}{1000 * further:>9.2f}"
                f"{growth:>8.2f}{best['peak_mb']:>9}{best['imports_mb']:>9}"
            )
        for stage in ("ingest", "transform"):
            ratio = rows[stage]["images_per_s"] / rows[f"plain-{stage}"]["images_per_s"]
            rows[f"{stage} / plain"] = round(ratio, 3)
            print(f"{stage} / plain-{stage}: {ratio:.2f} of the plain loop's images/s")
    print(f"appended to {recording.append('pipeline', record)}")


def shares(pipeline_root: pathlib.Path, name: str) -> None:
    """Prints and records the wall time of a finished run by component and group."""
    from pipelines import run_metadata
    from pipelines.settings import Settings

    root = str(pipeline_root)
    run = Settings(root, root, root, {"image_size": 1}, name=name)
    if not os.path.exists(run.metadata_path):
        raise SystemExit(f"{root} has no metadata.sqlite; give the --pipeline_root of a run")
    nodes = run_metadata.last_run(run)
    if "Trainer" not in nodes or nodes["Trainer"].state != "COMPLETE":
        raise SystemExit(f"the last run in {root} trained nothing; give one that trained")
    store = run_metadata.open_store(run)
    executions = store.get_executions_by_id([node.id for node in nodes.values()])
    start = min(execution.create_time_since_epoch for execution in executions)
    wall = max(execution.last_update_time_since_epoch for execution in executions) - start
    wall /= 1000

    group_of = {node: group for group, members in GROUPS.items() for node in members}
    seconds = dict.fromkeys([*GROUPS, "tfx"], 0.0)
    for node_id, node in nodes.items():
        # Statistics, schemas, gates and resolvers exist only because of TFX.
        seconds[group_of.get(node_id, "tfx")] += node.seconds
    seconds["between nodes"] = wall - sum(node.seconds for node in nodes.values())
    overhead = seconds["tfx"] + seconds["between nodes"]
    for node_id, node in sorted(nodes.items(), key=lambda item: -item[1].seconds):
        print(f"  {node_id:24}{node.seconds:>9.1f} s  {node.seconds / wall:>6.1%}  {node.state}")
    print(f"the run{wall:>28.1f} s")
    for group, spent in seconds.items():
        print(f"  {group:24}{spent:>9.1f} s  {spent / wall:>6.1%}")
    print(
        f"TFX (tfx and between nodes) is {overhead / wall:.1%} of the run, "
        f"{overhead / seconds['training']:.2f} of training"
    )
    record = recording.context("tfx", "tensorflow") | {
        "run": root,
        "wall_s": round(wall, 1),
        "nodes_s": {node_id: round(node.seconds, 1) for node_id, node in nodes.items()},
        "groups_s": {group: round(spent, 1) for group, spent in seconds.items()},
        "tfx / wall": round(overhead / wall, 4),
        "tfx / training": round(overhead / seconds["training"], 4),
    }
    print(f"appended to {recording.append('pipeline_overhead', record)}")


def main() -> None:
    """Runs the command; see `--help`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data_dir", type=pathlib.Path, help="folder of JPEG files, with or without subfolders"
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of images")
    parser.add_argument(
        "--rounds", type=int, default=3, help="rounds per size; the fastest counts (default 3)"
    )
    parser.add_argument("--run", type=pathlib.Path, help="--pipeline_root of a finished run")
    parser.add_argument("--pipeline_name", default="byol", help="--pipeline_name of that run")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    parser.add_argument("folders", type=pathlib.Path, nargs="*", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.stage:
        print(json.dumps(work(flags.stage, *flags.folders)))
    elif flags.run:
        shares(flags.run, flags.pipeline_name)
    elif flags.data_dir:
        throughput(flags.data_dir, sorted(flags.sizes), flags.rounds)
    else:
        parser.error("give --data_dir or --run")


if __name__ == "__main__":
    main()
