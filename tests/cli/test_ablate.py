"""byol-ablate as a user types it: one sentence for a mistake, and a tiny study end to end."""

import functools
import io
import json

import pytest
from commands import refusal, run_command
from pictures import copy_photos
from PIL import Image
from quick_recipe import FLAG

from byol_tf.ablation.studies import KNN, LINEAR, RANK, SPREAD

CLASSES = ("airplane", "bird")


ablate = functools.partial(run_command, "byol_tf.cli.ablate")
error = functools.partial(refusal, "byol_tf.cli.ablate")


@pytest.fixture(scope="module")
def data(images_dir, tmp_path_factory):
    """40 training and 12 test images."""
    path = tmp_path_factory.mktemp("data")
    return (
        copy_photos(images_dir / "train", path / "train", CLASSES, 20),
        copy_photos(images_dir / "test", path / "test", CLASSES, 6),
    )


def flags(data, output_dir, study="method", config="cifar10_demo:smoke"):
    return [
        f"--study={study}",
        f"--config={config}",
        f"--data_dir={data[0]}",
        f"--test_dir={data[1]}",
        f"--output_dir={output_dir}",
    ]


def contents(folder):
    """Content and time of change of all files below a folder."""
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_help_names_the_studies():
    result = ablate("--help")
    for text in ("byol-ablate --study=target_ema", "batch_size: B to B/64", "--output_dir"):
        assert text in result.stdout


@pytest.mark.parametrize(
    "changed, sentence",
    [
        (["--study=colours"], "batch_size|augmentations|target_ema|method"),
        (["--seeds=0,one"], "give whole numbers, separated by commas"),
        (["--seeds="], "give whole numbers, separated by commas"),
        (["--config=nothing"], "nothing"),
        (["--config.epoch=3"], "epoch"),
        (["extra"], "unexpected argument 'extra'"),
    ],
)
def test_bad_flags_get_a_sentence_and_no_trace(tmp_path, changed, sentence):
    message = error(*flags(("train", "test"), tmp_path / "studies"), *changed)
    assert sentence in message
    assert not (tmp_path / "studies").exists()


def test_a_missing_folder_is_named_before_anything_is_trained(data, tmp_path):
    missing = tmp_path / "missing"
    message = error(*flags((data[0], missing), tmp_path / "studies"))
    lines = [line for line in message.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and f"'{missing}' does not exist" in lines[0]
    assert not (tmp_path / "studies").exists()


@pytest.mark.slow
def test_a_study_is_trained_recorded_and_resumed(data, tmp_path):
    command = [*flags(data, tmp_path), FLAG, "--config.knn_every_epochs=0"]
    result = ablate(*command)
    assert result.returncode == 0, result.stderr

    record = json.loads((tmp_path / "method.json").read_text())
    assert (record["study"], record["seeds"]) == ("method", [0])
    assert [cell["line"] for cell in record["cells"]] == ["BYOL", "SimCLR"]
    assert record["base"]["epochs"] == 1 and record["command"].startswith("byol-ablate ")

    # The record holds what the runs' own files do.
    runs = [json.loads(p.read_text()) for p in (tmp_path / "runs").glob("*/figures.json")]
    trained = {run["pretrain"]["method"]: run["figures"] for run in runs if "pretrain" in run}
    (untrained,) = [run["figures"] for run in runs if "untrained" in run]
    for cell in record["cells"]:
        (figures,) = cell["by_seed"]
        assert figures == trained[cell["overrides"]["method"]]
        assert figures.keys() == {KNN, LINEAR, SPREAD, RANK}
        assert 0 <= figures[KNN] <= 1 and 0 <= figures[LINEAR] <= 1
    assert record["untrained"] == [untrained] and len(trained) == 2

    table = (tmp_path / "method.md").read_text()
    header, _, byol, simclr, before = table.splitlines()[:5]
    assert [cell.strip() for cell in header.split("|")][1:4] == [
        "run", "kNN top-1, %", "linear top-1, %",
    ]  # fmt: skip
    for line, name, figures in (
        (byol, "BYOL, base", trained["byol"]),
        (simclr, "SimCLR, base", trained["simclr"]),
        (before, "before training", untrained),
    ):
        cells = [cell.strip() for cell in line.split("|")][1:4]
        assert cells == [name, f"{100 * figures[KNN]:.1f}", f"{100 * figures[LINEAR]:.1f}"]
    assert header in result.stdout and str(tmp_path / "method.md") in result.stdout

    with Image.open(io.BytesIO((tmp_path / "method.png").read_bytes())) as picture:
        picture.load()
        assert picture.format == "PNG" and min(picture.size) > 300
        assert len(set(picture.convert("L").getdata())) > 10, "an empty picture"

    files = contents(tmp_path / "runs")
    again = ablate(*command)
    assert again.returncode == 0, again.stderr
    assert contents(tmp_path / "runs") == files, "a resumed study trains nothing"
    assert again.stdout == result.stdout
    assert json.loads((tmp_path / "method.json").read_text())["cells"] == record["cells"]
