"""The pipeline on real images, with real components and real faults.

The `byol-pipeline` process is started where the process itself is tested: the command, SIGKILL, a
full disk, the exit status. All other runs are made in this process, with the settings that the
command's flags give.
"""

import dataclasses
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import ml_collections
import pytest
import tensorflow as tf
from quick_recipe import FEATURES, FLAG, quick

from byol_tf.build import build_encoder
from byol_tf.configs import cifar10
from byol_tf.errors import UserError
from pipelines.runners.weights_digest import weights_digest
from pipelines.settings import Settings

ROOT = pathlib.Path(__file__).resolve().parents[3]
# Killed in turn; --exhaustive adds those that differ in nothing that a kill could find.
KILLED = ("ImageExampleGen", "Transform", "Trainer", "ModelPusher")
ALL_KILLED = (
    "ImageExampleGen", "StatisticsGen", "Transform", "Trainer", "LinearProbe", "Evaluator",
    "ModelPusher",
)  # fmt: skip
FINISHED = {"COMPLETE", "CACHED"}
pytestmark = pytest.mark.slow


@dataclasses.dataclass
class Kill:
    """State after a SIGKILL: exit status of the process, states of each node's executions."""

    status: int
    states: dict[str, list[str]]


@dataclasses.dataclass
class Pipeline:
    """The folders of a pipeline, its command and its settings; and what its first runs recorded."""

    folder: pathlib.Path
    data: pathlib.Path
    disk_full: str | None = None
    kills: dict[str, Kill] = dataclasses.field(default_factory=dict)
    printed: str = ""

    @property
    def root(self) -> pathlib.Path:
        return self.folder / "root"

    @property
    def serving(self) -> pathlib.Path:
        return self.folder / "serving"

    def start(self, *flags: str) -> subprocess.Popen:
        command = [
            sys.executable, "-m", "pipelines.runners.local", "--config=cifar10:smoke", FLAG,
            "--config.batch_size=16", "--config.precision=float32", "--config.knn_every_epochs=0",
            f"--data_dir={self.data}", f"--pipeline_root={self.root}",
            f"--serving_model_dir={self.serving}", "--output_splits=train=4,eval=1",
            "--labels=folders", "--min_accuracy=0.01", "--max_accuracy_loss=1", *flags,
        ]  # fmt: skip
        library = f"{ROOT}:{os.environ['PYTHONPATH']}"
        environment = os.environ | {"PYTHONPATH": library, "TF_CPP_MIN_LOG_LEVEL": "2"}
        return subprocess.Popen(
            command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def run(self) -> str:
        """Starts the command and waits for its success; returns what it prints."""
        process = self.start()
        printed, errors = process.communicate(timeout=900)
        assert process.returncode == 0, errors[-3000:]
        return printed

    def fails(self, *flags: str) -> str:
        """Starts the command and waits for its failure; returns the one sentence it prints."""
        process = self.start(*flags)
        _, errors = process.communicate(timeout=900)
        assert process.returncode == 1, errors[-3000:]
        sentences = re.findall(r"^error: (.*)", errors, re.MULTILINE)
        assert len(sentences) == 1 and "Traceback (most recent" not in errors, errors[-3000:]
        return sentences[0]

    def kill_in(self, node: str) -> None:
        """Starts the command and kills it while the executor of `node` is at work."""
        log = self.root / "pipeline.log"
        offset = log.stat().st_size if log.exists() else 0
        process = self.start()

        def at_work() -> bool:
            if not log.exists():
                return False
            with open(log, errors="replace") as file:
                file.seek(offset)
                text = file.read().partition(f"Component {node} is running.")[2]
            # TFX logs this right before it calls the executor; ML Metadata has the execution then.
            begun = "Going to run a new execution: " in text
            # Training is killed after a checkpoint, so that there is something to continue from.
            return begun and (node != "Trainer" or any(self.root.glob("training/*/checkpoints/*")))

        deadline = time.monotonic() + 600
        while process.poll() is None and time.monotonic() < deadline and not at_work():
            time.sleep(0.02)
        time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        self.kills[node] = Kill(process.returncode, self.executions())

    def settings(self, **changes) -> Settings:
        """Returns the settings that the command's flags give, except for `changes`."""
        from pipelines.images import listing

        config = quick(cifar10.get_config)
        config.update(batch_size=16, precision="float32", knn_every_epochs=0)
        defaults = {
            "data_dir": str(self.data),
            "pipeline_root": str(self.root),
            "serving_model_dir": str(self.serving),
            "config": config.to_dict(),
            "output_splits": {"train": 4, "eval": 1},
            "listing_digest": listing.digest(listing.find_files(str(self.data), "**")),
            "labels": "folders",
            "min_accuracy": 0.01,
            "max_accuracy_loss": 1.0,
        }
        return Settings(**defaults | changes)

    def run_here(self, **changes) -> str:
        """Runs the pipeline in this process; returns what the command would print."""
        from pipelines.runners import local_run

        self.root.mkdir(exist_ok=True)  # As the command does, for its log.
        return local_run.run(self.settings(**changes))

    def newest(self, node: str, output: str) -> pathlib.Path:
        """Returns the artifact of a component's last execution."""
        return max((self.root / node / output).iterdir(), key=lambda path: int(path.name))

    @property
    def versions(self) -> list[str]:
        folder = self.serving / "byol"
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []

    def executions(self) -> dict[str, list[str]]:
        """States of all executions of each node that ran, by ML Metadata, oldest first."""
        import ml_metadata
        from ml_metadata import proto

        config = proto.ConnectionConfig()
        config.sqlite.filename_uri = str(self.root / "metadata.sqlite")
        store = ml_metadata.MetadataStore(config)
        states = {}
        for context in store.get_contexts_by_type("node"):
            executions = sorted(store.get_executions_by_context(context.id), key=lambda e: e.id)
            states[context.name.removeprefix("byol.")] = [
                proto.Execution.State.Name(e.last_known_state) for e in executions
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
def disk(tmp_path_factory):
    """A folder, and a function that sets its free space; None if mounting is not permitted."""
    folder = tmp_path_factory.mktemp("disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        yield folder, None
        return

    def resize(free: int) -> None:
        status = os.statvfs(folder)
        size = (status.f_blocks - status.f_bfree) * status.f_frsize + free
        subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)

    yield folder, resize
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="module")
def killed(pytestconfig) -> tuple[str, ...]:
    """Components in which the pipeline is killed."""
    return ALL_KILLED if pytestconfig.getoption("exhaustive") else KILLED


@pytest.fixture(scope="module")
def pipeline(disk, photos, killed) -> Pipeline:
    """A pipeline that was killed in several components, hit a full disk, and was continued."""
    folder, resize = disk
    pipeline = Pipeline(folder, photos)
    for node in killed:
        if node == "Transform" and resize:
            resize(64 << 10)
            pipeline.disk_full = pipeline.fails()
            resize(1 << 30)
        if node == "ModelPusher":
            # Pushing takes milliseconds. It begins by reading the newest version, here a large one.
            large = pipeline.serving / "byol" / "1" / "large"
            large.parent.mkdir(parents=True)
            large.touch()
            os.truncate(large, 512 << 20)
        pipeline.kill_in(node)
        if node == "ModelPusher":
            shutil.rmtree(large.parent)
        for version in pipeline.versions:  # A served model is complete at every moment.
            if version.isdecimal():
                tf.saved_model.load(str(pipeline.serving / "byol" / version))
    pipeline.printed = pipeline.run()
    return pipeline


def test_killed_in_one_component_after_the_other_and_run_again(pipeline, killed):
    for node, kill in pipeline.kills.items():
        assert kill.status == -signal.SIGKILL, node
        # Begun and never ended: the kill landed inside the component.
        assert kill.states[node][-1] == "RUNNING", node
        assert all(kill.states[other][-1] in FINISHED for other in kill.states if other != node)
    assert tuple(pipeline.kills) == killed

    assert "was pushed" in pipeline.printed or "Nothing new" in pipeline.printed
    assert len(pipeline.versions) == 1 and pipeline.versions[0].isdecimal()
    assert "continuing the training in" in (pipeline.root / "pipeline.log").read_text()
    states = pipeline.executions()
    for node in ALL_KILLED:
        assert states[node][-1] in FINISHED
        for key in (pipeline.root / node).iterdir():  # The leftovers of killed executions are gone.
            if key.name != ".system":
                assert len(list(key.iterdir())) == states[node].count("COMPLETE"), node


def test_full_disk_is_one_sentence_and_the_run_goes_on_later(pipeline):
    if pipeline.disk_full is None:
        pytest.skip("mounting a tmpfs needs root")
    assert "no space left" in pipeline.disk_full


def test_pushed_model_answers_all_signatures(pipeline, images_dir):
    model = tf.saved_model.load(str(pipeline.serving / "byol" / pipeline.versions[0]))
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
    assert answers[0].shape == (1, FEATURES) and abs(answers[0]).max() > 0
    for answer in answers[1:]:
        assert abs(answer - answers[0]).max() < 1e-4


def test_report_is_written_and_refers_to_nothing_outside(pipeline):
    (report, *_) = sorted((pipeline.root / "reports").glob("*.html"))
    assert f"The report: {report}" in pipeline.printed
    text = re.sub(r"(?s)<script>.*?</script>", "", report.read_text())
    assert "random encoder" in text and "ImageExampleGen" in text
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", text)


def test_runs_of_other_components_follow_from_what_changed(pipeline):
    """Without a change nothing is trained; a new learning rate reruns from Trainer on."""
    before = pipeline.executions()
    assert "Nothing new to push" in pipeline.run_here()
    states = pipeline.executions()
    for node in ("ImageExampleGen", "StatisticsGen", "Transform", "Trainer", "LinearProbe"):
        assert states[node] == [*before[node], "CACHED"]
    assert len(pipeline.versions) == 1

    config = pipeline.settings().config
    config["optimizer"]["base_lr"] = 0.5
    assert "was pushed" in pipeline.run_here(config=config)
    states = pipeline.executions()
    assert all(states[n][-1] == "CACHED" for n in ("ImageExampleGen", "StatisticsGen", "Transform"))
    assert all(states[n][-1] == "COMPLETE" for n in ("Trainer", "LinearProbe", "Evaluator"))
    assert len(pipeline.versions) == 2
    assert not any((pipeline.root / "training").iterdir())


def test_training_starts_from_the_encoder_that_was_pushed_last(pipeline):
    """Its row "before this training" is what was measured of it after the training before."""
    trained, measured = pipeline.newest("Trainer", "model"), pipeline.newest("LinearProbe", "model")
    config = pipeline.settings().config
    config["encoder"]["weights"] = "last"
    assert "pushed" in pipeline.run_here(config=config)
    started = f"{trained}/Format-Serving"
    ours = pipeline.newest("Trainer", "model_run") / "config.json"
    assert json.loads(ours.read_text())["started_from"]["from"] == started
    report = max((pipeline.root / "reports").glob("*.html")).read_text()
    assert f"{started}, a SavedModel of byol-export, fingerprint" in report
    rows, before = (
        json.loads((folder / "evaluation.json").read_text())["rows"]
        for folder in (pipeline.newest("LinearProbe", "model"), measured)
    )
    assert [row["encoder"] for row in rows][1] == "before this training"
    assert rows[1]["cells"] == before[0]["cells"]
    variables = "Format-Serving/variables/variables.data-00000-of-00001"
    new = pipeline.newest("Trainer", "model")
    assert (new / variables).read_bytes() != (trained / variables).read_bytes()


def test_model_that_is_not_good_enough_is_not_pushed(pipeline):
    before = pipeline.versions
    printed = pipeline.run_here(min_accuracy=0.999)
    assert "NOT pushed" in printed and "must be at least 0.999 (--min_accuracy" in printed
    assert f"The served model stays: {pipeline.serving / 'byol' / before[-1]}." in printed
    assert pipeline.versions == before


def test_data_that_drift_or_break_the_schema_are_stopped_before_training(
    pipeline, photos, tmp_path
):
    """Most of one class is gone, so the label mix differs; and the schema asks for PNG files."""
    other = tmp_path / "photos"
    shutil.copytree(photos, other)
    for path in sorted((other / "cat").iterdir())[2:]:
        path.unlink()
    schema = tmp_path / "schema.pbtxt"
    schema.write_text("""
        feature { name: "image/format" type: BYTES domain: "f" }
        feature { name: "image/height" type: INT }
        feature { name: "image/width" type: INT }
        feature { name: "image/label_text" type: BYTES }
        string_domain { name: "f" value: "PNG" }
    """)
    drifted = Pipeline(pipeline.folder, other)
    before = len(pipeline.executions()["Trainer"])
    sentence = drifted.fails(f"--schema_file={schema}")
    assert "image/format" in sentence and "against the schema" in sentence
    assert "image/label_text" in sentence and "against the last run" in sentence
    # Refused data does not become the baseline of the next run.
    with pytest.raises(UserError, match="image/label_text.*against the last run"):
        drifted.run_here()
    assert len(pipeline.executions()["Trainer"]) == before


def test_unlabelled_images_are_judged_without_labels(tmp_path, photos):
    import pyarrow.parquet

    pipeline = Pipeline(tmp_path, photos)
    unlabelled = {"labels": "none", "labelled": False}
    # The training starts from a file of weights.
    config = pipeline.settings().config
    weights = tmp_path / "start.keras"
    build_encoder(ml_collections.ConfigDict(config)).save(weights)
    config["encoder"]["weights"] = str(weights)
    unlabelled |= {"config": config, "weights_digest": weights_digest(str(weights))}
    printed = pipeline.run_here(**unlabelled, min_spread=0.001, embed_data_dir=str(photos / "cat"))
    assert "was pushed" in printed
    (folder,) = (tmp_path / "root" / "CorpusEmbedder" / "embeddings").iterdir()
    table = pyarrow.parquet.read_table(folder)
    assert sorted(table["key"].to_pylist()) == sorted(p.name for p in (photos / "cat").iterdir())
    assert len(table["embedding"][0]) == FEATURES
    report = next((pipeline.root / "reports").glob("*.html")).read_text()
    assert "Labels were ignored" in report and "LinearProbe" not in report
    assert f"{weights}, a .keras file of" in report
    assert re.search(rf"StartingWeights result.*artifact \d+, {weights}", report, re.DOTALL)

    # An unreachable floor rejects the encoder as if it had collapsed.
    printed = pipeline.run_here(**unlabelled, min_spread=1.0)
    assert "NOT pushed" in printed and "representation std" in printed
    assert len(pipeline.versions) == 1
    # The comparison with the last blessed encoder passed, and says by how much it had to go.
    report = max((pipeline.root / "reports").glob("*.html")).read_text()
    assert re.search("rotation accuracy changed by.*(only a collapse counts|no loss)", report)


def test_too_many_corrupt_images_are_one_sentence_and_serve_nothing(tmp_path):
    unreadable = tmp_path / "unreadable"
    unreadable.mkdir()
    for number in range(20):
        (unreadable / f"{number}.jpg").write_bytes(b"no image")
    pipeline = Pipeline(tmp_path, unreadable)
    with pytest.raises(UserError, match="20 of the 20 images"):
        pipeline.run_here(labels="none", labelled=False)
    assert not pipeline.serving.exists()
