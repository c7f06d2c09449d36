"""The flags of the runners as Settings, and what the data folder adds to them."""

import dataclasses
import hashlib
import os
import shutil
import sys
from unittest import mock

import pytest
from absl import flags
from absl.testing import flagsaver

from byol_tf.cli import recipe
from byol_tf.errors import UserError
from byol_tf.training import dry_run as training_dry_run
from pipelines.images import listing
from pipelines.runners import dry_run, flag_settings
from pipelines.runners.data_folder import DataFolder, list_folder
from pipelines.settings import Settings


@pytest.fixture(scope="module", autouse=True)
def defined_flags():
    known = set(flags.FLAGS)
    flag_settings.define()
    yield
    for name in set(flags.FLAGS) - known:
        delattr(flags.FLAGS, name)


def parsed(data, *arguments: str, beam_args=(), listed=True) -> Settings:
    command = [
        "byol-pipeline", "--config=cifar10:smoke", f"--data_dir={data}", "--pipeline_root=root",
        "--serving_model_dir=serving", *arguments,
    ]  # fmt: skip
    command = recipe.with_config_paths(command)
    # ml_collections looks for the overrides of --config in sys.argv.
    with mock.patch.object(sys, "argv", command), flagsaver.flagsaver():
        flags.FLAGS(command)
        folder = flag_settings.data_folder() if listed else None
        return flag_settings.from_flags(flag_settings.resolved_config(), list(beam_args), folder)


def look(data, labels="auto") -> DataFolder:
    return list_folder(str(data), labels, {}, {}, None)


def make(folder, **counts: int):
    """Makes empty files in folders of these names; a listing reads their names only."""
    for name, count in counts.items():
        (folder / name).mkdir(exist_ok=True)
        for number in range(count):
            (folder / name / f"{number}.jpg").touch()
    return folder


@pytest.fixture
def photos(tmp_path):
    """Three quarters of the files are of class a."""
    return make(tmp_path, a=18, b=6)


def test_without_flags_settings_have_their_defaults(photos):
    settings = parsed(photos)
    given = {"data_dir", "pipeline_root", "serving_model_dir", "config"}
    found = {"listing_digest", "embed_listing_digest", "min_accuracy"}
    for field in dataclasses.fields(Settings):
        if field.name not in given | found:
            default = Settings(str(photos), "root", "serving", settings.config)
            assert getattr(settings, field.name) == getattr(default, field.name), field.name
    assert settings.config["image_size"] == 32


def test_every_flag_reaches_its_setting(photos):
    said = {
        "name": "birds", "model_name": "bird", "max_corrupt_fraction": 0.5,
        "schema_file": "/schema.pbtxt", "stop_on": "never", "max_drift": 0.3, "shorter_side": 64,
        "strategy": "default", "views": 4, "min_accuracy": 0.25, "max_accuracy_loss": 0.2,
        "min_spread": 0.05, "max_measure_loss": 0.75, "embed_data_dir": str(photos / "a"),
        "infra_validator": "docker", "span": 7, "labels": "folders",
    }  # fmt: skip
    named = {"name": "pipeline_name"}
    settings = parsed(
        f"{photos}/",
        *(f"--{named.get(name, name)}={value}" for name, value in said.items()),
        "--output_splits=train=4,eval=1",
        "--input_splits=all=*/*.jpg",
        "--nocache",
        "--config.batch_size=24",
        beam_args=["--runner=DirectRunner"],
    )
    assert {name: getattr(settings, name) for name in said} == said
    assert settings.data_dir == str(photos)
    assert settings.output_splits == {"train": 4, "eval": 1}
    assert settings.input_splits == {"all": "*/*.jpg"}
    assert not settings.enable_cache
    assert settings.config["batch_size"] == 24
    assert settings.beam_args == ("--runner=DirectRunner",)


def test_the_data_folder_decides_the_floor_and_the_digests(photos):
    settings = parsed(photos, "--labels=folders", f"--embed_data_dir={photos / 'b'}")
    assert settings.accuracy_decides and settings.min_accuracy == pytest.approx(0.75 + 0.05)
    assert settings.listing_digest == listing.digest(listing.find_files(str(photos), "**"))
    embedded = listing.find_files(str(photos / "b"), "**")
    assert settings.embed_listing_digest == listing.digest(embedded)


def test_weights_to_start_from_are_known_by_their_content(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "start.weights.h5"
    file.write_bytes(b"one")
    settings = parsed(photos, "--config.encoder.weights=start.weights.h5")
    assert settings.weights == str(file)
    assert settings.weights_digest == hashlib.sha256(b"one").hexdigest()
    for name in ("last", "imagenet"):
        settings = parsed(photos, f"--config.encoder.weights={name}")
        assert (settings.weights, settings.weights_digest) == (name, "")
    with pytest.raises(UserError, match="there are no weights '.*nowhere' to start from"):
        parsed(photos, "--config.encoder.weights=nowhere")


def test_the_digest_is_of_the_folders_content_and_not_of_its_path(tmp_path):
    (tmp_path / "data").mkdir()
    make(tmp_path / "data", a=12, b=12)
    before = look(tmp_path / "data").digest
    moved = (tmp_path / "data").rename(tmp_path / "moved")
    assert look(moved).digest == before
    shutil.copytree(moved, tmp_path / "copied")  # With the times.
    assert look(tmp_path / "copied").digest == before
    os.utime(tmp_path / "copied" / "a" / "0.jpg", (0, 0))
    assert look(tmp_path / "copied").digest != before


def test_labels_in_a_csv_file_are_a_part_of_the_data(photos, tmp_path_factory):
    keys = [file.key for file in listing.find_files(str(photos), "**")]
    labels = tmp_path_factory.mktemp("labels") / "labels.csv"

    def digest(classes, order=1):
        rows = [f"{key},{name}" for key, name in zip(keys, classes, strict=True)]
        labels.write_text("\n".join(["path,label", *rows[::order]]) + "\n")
        return look(photos, str(labels)).digest

    classes = ["cat", "dog"] * (len(keys) // 2)
    before = digest(classes)
    assert digest(classes, order=-1) == before  # Another order of rows says the same.
    assert digest(["dog", *classes[1:]]) != before
    assert before != look(photos).digest


def test_a_folder_that_is_not_listed_has_labels_only_if_told(photos):
    told = ["gs://bucket/photos", "--labels=folders", "--min_accuracy=0.4"]
    unlisted = parsed(*told, listed=False)
    assert unlisted.accuracy_decides
    assert not unlisted.listing_digest and not unlisted.compare_with_last_run
    assert not parsed("gs://bucket/photos", listed=False).labelled
    # The paths are those of another machine.
    assert parsed("photos/./may", listed=False).data_dir == "photos/./may"


def test_subfolders_that_nobody_called_classes_are_reported_and_do_not_decide(photos):
    auto = parsed(photos)
    assert auto.labelled and not auto.accuracy_decides
    found = look(photos).found
    assert "24 images in 2 subfolders: taken as classes for reports" in found
    assert "--labels=folders" in found and "--labels=none" in found
    assert not parsed(photos, "--labels=none").labelled


@pytest.mark.parametrize(
    ("counts", "why"),
    [
        ({"a": 30}, "all images are of one class ('a')"),
        # Their only images are in the split eval, by the hash of the paths.
        ({"a": 30, **{f"album{n}": 1 for n in range(30)}}, "has no image of the class 'album"),
        ({"a": 4, "b": 4}, "fewer than 10 images"),
    ],
)
def test_albums_that_cannot_be_measured_do_not_stop_a_run(tmp_path, counts, why):
    folder = look(make(tmp_path, **counts))
    assert not folder.labelled and why in folder.found
    with pytest.raises(UserError) as error:  # With labels that were asked for, it would be in vain.
        look(tmp_path, "folders")
    assert why in str(error.value) and "--labels=auto" in str(error.value)


def test_images_without_subfolders_have_no_labels(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.jpg").touch()
    folder = look(tmp_path)
    assert not folder.labelled and "3 images without labels" in folder.found
    with pytest.raises(UserError, match="in no subfolder"):
        look(tmp_path, "folders")


def test_images_are_in_the_split_that_the_records_will_have(photos):
    images = look(photos).images
    for split, files in images.items():
        assert {listing.split_of(file.key, {"train": 9, "eval": 1}) for file in files} == {split}
    assert sum(map(len, images.values())) == 24


def test_every_spelling_of_a_folder_is_one(photos, tmp_path_factory, monkeypatch):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "link").symlink_to(photos)
    monkeypatch.chdir(photos)
    spellings = [
        photos, f"{photos}/", f"{photos}/.", f"{photos}/a/..", ".", elsewhere / "link",
        os.path.relpath(photos),
    ]  # fmt: skip
    embedded = [parsed(path, f"--embed_data_dir={path}") for path in spellings]
    assert len({(s.data_dir, s.embed_data_dir, s.listing_digest) for s in embedded}) == 1
    monkeypatch.chdir(elsewhere)
    roots = [
        parsed(photos, f"--pipeline_root={root}")
        for root in ("root", "./root/", elsewhere / "root")
    ]
    assert len({(s.pipeline_root, s.training_dir) for s in roots}) == 1


@pytest.mark.parametrize(
    ("folder", "arguments", "sentence"),
    [
        ("empty", [], "holds no images"),
        ("gone", [], "cannot be read"),
        ("a", ["--labels=folders"], "of one class"),
        (".", ["--min_accuracy=0.5"], "--min_accuracy lets accuracy decide"),
        (".", ["--labels=none", "--max_accuracy_loss=0.5"], "give --labels=folders"),
        (".", ["--input_splits=train=c/**,eval=d/**"], "holds no images"),
        (".", ["--output_splits=train=4,eval=0"], "eval '0' buckets"),
        (".", ["--output_splits=train=4,train=1"], "each name once"),
        (".", ["--input_splits=train"], "--input_splits has 'train'"),
        (".", ["--labels=none", "--shorter_side=16"], "shorter_side 16"),
    ],
)
def test_mistakes_are_one_sentence(photos, folder, arguments, sentence):
    (photos / "empty").mkdir()
    if folder == "a":  # A folder of one class folder.
        for path in (photos / "b").iterdir():
            path.unlink()
        (photos / "b").rmdir()
        folder = "."
    with pytest.raises(UserError) as error:
        parsed(photos / folder, *arguments)
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(photos, images_dir, monkeypatch):
    for number, path in enumerate(sorted((images_dir / "train" / "cat").iterdir())[:18]):
        (photos / "a" / f"{number}.jpg").write_bytes(path.read_bytes())
        (photos / "b" / f"{number % 6}.jpg").write_bytes(path.read_bytes())
    monkeypatch.setattr(training_dry_run, "_SECONDS", 0.2)
    monkeypatch.chdir(photos)
    before = sorted(os.walk(photos))
    folder = look(photos)
    text = "\n".join(dry_run.describe(parsed(photos), folder))
    assert sorted(os.walk(photos)) == before
    train, test = (len(folder.images[split]) for split in ("train", "eval"))
    assert "24 images in 2 subfolders" in text and "jpg 24" in text
    assert f"train {train} images, eval {test} images" in text
    assert f"on {train} images" in text and f"1 epoch of {train // 8} step" in text
    assert f"{photos}/root" in text and f"{photos}/serving/byol/VERSION" in text
