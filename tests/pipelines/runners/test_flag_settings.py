"""The flags of the runners as Settings, and what the data folder adds to them."""

import dataclasses
import sys
from unittest import mock

import pytest
from absl import flags
from absl.testing import flagsaver

from byol_tf.cli import recipe
from byol_tf.errors import UserError
from pipelines.images import listing
from pipelines.runners import flag_settings
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
        return flag_settings.from_flags(
            flag_settings.resolved_config(), list(beam_args), listed=listed
        )


@pytest.fixture
def photos(tmp_path):
    """Three files of class a and one of class b; listing reads their names only."""
    for name in ("a/1.jpg", "a/2.jpg", "a/3.jpg", "b/1.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


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
        "schema_file": "schema.pbtxt", "stop_on": "never", "max_drift": 0.3, "shorter_side": 64,
        "strategy": "default", "views": 4, "min_accuracy": 0.25, "max_accuracy_loss": 0.2,
        "min_spread": 0.05, "max_measure_loss": 0.75, "embed_data_dir": str(photos / "a"),
        "infra_validator": "docker", "span": 7,
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


def test_the_data_folder_decides_labels_floor_and_digests(photos):
    settings = parsed(photos, f"--embed_data_dir={photos / 'b'}")
    assert settings.labelled and settings.min_accuracy == pytest.approx(0.75 + 0.05)
    assert settings.listing_digest == listing.digest(listing.find_files(str(photos), "**"))
    embedded = listing.find_files(str(photos / "b"), "**")
    assert settings.embed_listing_digest == listing.digest(embedded)
    assert not parsed(photos, "--labels=none").labelled
    unlisted = parsed("gs://bucket/photos", "--min_accuracy=0.4", listed=False)
    assert unlisted.labelled and not unlisted.listing_digest and not unlisted.compare_with_last_run


@pytest.mark.parametrize(
    ("folder", "arguments", "sentence"),
    [
        ("empty", [], "holds no images"),
        ("gone", [], "cannot be read"),
        ("a", [], "of one class"),
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
