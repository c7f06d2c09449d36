"""byol-pipeline as a user runs it: real images, real components, real faults. Each run is a process."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import tensorflow as tf

ROOT = pathlib.Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.slow


class Pipeline:
    """A pipeline's folders, and its command."""

    def __init__(self, folder: pathlib.Path, data: pathlib.Path):
        self.data, self.root, self.serving = data, folder / "root", folder / "serving"

    def command(self, *flags: str) -> list[str]:
        return [
            sys.executable, "-m", "pipelines.runners.local", "--config=cifar10:smoke",
            "--config.batch_size=16", "--config.precision=float32", "--config.knn_every_epochs=0",
            f"--data_dir={self.data}", f"--pipeline_root={self.root}",
            f"--serving_model_dir={self.serving}", "--output_splits=train=4,eval=1",
            "--min_accuracy=0.01", "--max_accuracy_loss=1", *flags,
        ]  # fmt: skip

    def start(self, *flags: str) -> subprocess.Popen:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"}
        return subprocess.Popen(
            self.command(*flags), env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, *flags: str) -> str:
        """Runs to the end; returns what is printed."""
        process = self.start(*flags)
        printed, errors = process.communicate(timeout=900)
        assert process.returncode == 0, errors[-3000:]
        return printed

    def fails(self, *flags: str) -> str:
        """Runs into a mistake; returns the one sentence."""
        process = self.start(*flags)
        _, errors = process.communicate(timeout=900)
        assert process.returncode == 1, errors[-3000:]
        sentences = re.findall(r"^error: (.*)", errors, re.MULTILINE)
        assert len(sentences) == 1 and "Traceback (most recent" not in errors, errors[-3000:]
        return sentences[0]

    @property
    def versions(self) -> list[str]:
        folder = self.serving / "byol"
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []

    def executions(self) -> dict[str, list[str]]:
        """States of all executions of each node that ran, by ML Metadata, oldest first."""
        import ml_metadata
        from ml_metadata.proto import metadata_store_pb2

        config = metadata_store_pb2.ConnectionConfig()
        config.sqlite.filename_uri = str(self.root / "metadata.sqlite")
        store = ml_metadata.MetadataStore(config)
        states = {}
        for context in store.get_contexts_by_type("node"):
            executions = sorted(store.get_executions_by_context(context.id), key=lambda e: e.id)
            states[context.name.removeprefix("byol.")] = [
                metadata_store_pb2.Execution.State.Name(e.last_known_state) for e in executions
            ]
        return states


@pytest.fixture(scope="module")
def photos(tmp_path_factory, images_dir) -> pathlib.Path:
    """160 real images of four classes."""
    folder = tmp_path_factory.mktemp("photos")
    for name in ("airplane", "cat", "ship", "truck"):
        (folder / name).mkdir()
        for path in sorted((images_dir / "train" / name).iterdir())[:40]:
            shutil.copy(path, folder / name)
    return folder


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory, photos) -> Pipeline:
    """One that has run once."""
    pipeline = Pipeline(tmp_path_factory.mktemp("pipeline"), photos)
    assert "was pushed" in pipeline.run()
    return pipeline


def test_pushed_model_answers_all_signatures(pipeline, images_dir):
    (version,) = pipeline.versions
    model = tf.saved_model.load(str(pipeline.serving / "byol" / version))
    content = next((images_dir / "test" / "dog").iterdir()).read_bytes()
    example = tf.train.Example()
    example.features.feature["image/encoded"].bytes_list.value.append(content)
    answers = [
        model.signatures[name](**{argument: value})["embedding"].numpy()
        for name, argument, value in (
            ("serving_default", "image_bytes", tf.constant([content])),
            ("pixels", "images", tf.io.decode_jpeg(content, dct_method="INTEGER_ACCURATE")[None]),
            ("examples", "examples", tf.constant([example.SerializeToString()])),
        )
    ]
    assert answers[0].shape == (1, 128) and abs(answers[0]).max() > 0
    for answer in answers[1:]:
        assert abs(answer - answers[0]).max() < 1e-4


def test_report_is_written_and_refers_to_nothing_outside(pipeline):
    (report, *_) = sorted((pipeline.root / "reports").glob("*.html"))
    text = report.read_text()
    assert "random encoder" in text and "ImageExampleGen" in text
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", text)


def test_runs_of_other_components_follow_from_what_changed(pipeline):
    """Nothing changed: nothing is trained or pushed. A training field: from Trainer on."""
    assert "Nothing new to push" in pipeline.run()
    states = pipeline.executions()
    costly = ("ImageExampleGen", "StatisticsGen", "Transform", "Trainer", "LinearProbe")
    assert all(states[node] == ["COMPLETE", "CACHED"] for node in costly)
    assert len(pipeline.versions) == 1

    assert "was pushed" in pipeline.run("--config.optimizer.base_lr=0.5")
    states = pipeline.executions()
    assert all(states[n][-1] == "CACHED" for n in ("ImageExampleGen", "StatisticsGen", "Transform"))
    assert all(states[n][-1] == "COMPLETE" for n in ("Trainer", "LinearProbe", "Evaluator"))
    assert len(pipeline.versions) == 2
    assert not any((pipeline.root / "training").iterdir())


def test_model_that_is_not_good_enough_is_not_pushed(pipeline):
    before = pipeline.versions
    printed = pipeline.run("--min_accuracy=0.999")
    assert "NOT pushed" in printed and "must be at least 0.999" in printed
    assert pipeline.versions == before


def test_data_that_drift_are_stopped_before_training(pipeline, photos, tmp_path):
    """Half of one class gone: the label mix is another."""
    other = tmp_path / "photos"
    shutil.copytree(photos, other)
    for path in sorted((other / "cat").iterdir())[2:]:
        path.unlink()
    drifted = Pipeline(pipeline.root.parent, other)
    before = len(pipeline.executions()["Trainer"])
    assert "image/label_text" in drifted.fails()
    assert "image/label_text" in drifted.fails()  # Nor is it what is usual from then on.
    assert len(pipeline.executions()["Trainer"]) == before


def test_unlabelled_images_are_judged_without_labels(tmp_path, photos):
    pipeline = Pipeline(tmp_path, photos)
    embedded = f"--embed_data_dir={photos / 'cat'}"
    printed = pipeline.run("--labels=none", "--min_spread=0.001", embedded)
    assert "was pushed" in printed
    import pyarrow.parquet

    (folder,) = (tmp_path / "root" / "CorpusEmbedder" / "embeddings").iterdir()
    table = pyarrow.parquet.read_table(folder)
    assert sorted(table["key"].to_pylist()) == sorted(p.name for p in (photos / "cat").iterdir())
    assert len(table["embedding"][0]) == 128
    report = next((pipeline.root / "reports").glob("*.html")).read_text()
    assert "no labels" in report and "LinearProbe" not in report

    # A collapsed encoder: τ = 1 - nothing learnt - is not collapse; an impossible floor is.
    printed = pipeline.run("--labels=none", "--min_spread=1")
    assert "NOT pushed" in printed and "spread" in printed
    assert len(pipeline.versions) == 1


KILLED = (
    "ImageExampleGen", "StatisticsGen", "Transform", "Trainer", "LinearProbe", "Evaluator",
    "ModelPusher",
)  # fmt: skip


def test_killed_in_each_component_in_turn_and_run_again(tmp_path, photos):
    """kill -9 as soon as a component has begun; what is served is whole at every moment."""
    pipeline = Pipeline(tmp_path, photos)
    for node in KILLED:
        process = pipeline.start()
        log = pipeline.root / "pipeline.log"
        marker = f"Component {node} is running."
        seen = log.read_text().count(marker) if log.exists() else 0
        deadline = time.monotonic() + 600
        while process.poll() is None and time.monotonic() < deadline:
            if log.exists() and log.read_text(errors="replace").count(marker) > seen:
                break
            time.sleep(0.02)
        time.sleep({"Trainer": 3, "Transform": 1}.get(node, 0.3 if node != "ModelPusher" else 0.02))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        for version in pipeline.versions:
            if version.isdecimal():
                tf.saved_model.load(str(pipeline.serving / "byol" / version))
    printed = pipeline.run()
    assert "was pushed" in printed or "Nothing new" in printed
    assert len([v for v in pipeline.versions if v.isdecimal()]) == 1
    assert not [v for v in pipeline.versions if not v.isdecimal()]
    states = pipeline.executions()
    finished = {"COMPLETE", "CACHED"}
    assert all(states[node][-1] in finished for node in KILLED)
    for node in KILLED:  # What killed executions left is gone.
        for key in (pipeline.root / node).iterdir():
            if key.name != ".system":
                assert len(list(key.iterdir())) == states[node].count("COMPLETE"), node


def test_mistakes_are_one_sentence(tmp_path, photos, images_dir):
    empty, unreadable, one = tmp_path / "empty", tmp_path / "unreadable", tmp_path / "one"
    for folder in (empty, unreadable, one / "cat"):
        folder.mkdir(parents=True)
    for number in range(20):
        (unreadable / f"{number}.jpg").write_bytes(b"no image")
    for path in sorted((images_dir / "train" / "cat").iterdir())[:20]:
        shutil.copy(path, one / "cat")

    def sentence(data, *flags):
        return Pipeline(tmp_path / "p", data).fails(*flags)

    assert "holds no images" in sentence(empty)
    assert "does not exist" in sentence(tmp_path / "gone") or "cannot be read" in sentence(
        tmp_path / "gone"
    )
    assert "20 of the 20 images" in sentence(unreadable)
    assert "one class" in sentence(one)
    schema = tmp_path / "schema.pbtxt"
    schema.write_text('feature { name: "image/format" type: BYTES domain: "f" }\n'
                      'string_domain { name: "f" value: "PNG" }\n')  # fmt: skip
    assert "image/format" in sentence(photos, f"--schema_file={schema}")
    assert not (tmp_path / "p" / "serving").exists()


def test_full_disk_is_one_sentence_and_the_run_goes_on_later(tmp_path, photos):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs needs root")
    pipeline = Pipeline(tmp_path, photos)
    pipeline.root = disk / "root"
    try:
        assert "no space left" in pipeline.fails()
        subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)
        assert "was pushed" in pipeline.run()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
