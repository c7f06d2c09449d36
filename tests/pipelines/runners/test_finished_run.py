"""The same command again, recalled from the last run; anything that differs runs the pipeline."""

import dataclasses

import pytest

from pipelines.runners import finished_run
from pipelines.runners.input_links import linked
from pipelines.settings import Settings, canonical


@pytest.fixture
def settings(tmp_path) -> Settings:
    """Settings of a run that has been recorded and left a served model."""
    (tmp_path / "labels.csv").write_text("path,label\n")
    (tmp_path / "served").mkdir()
    settings = Settings(
        "/data", str(tmp_path), "/serving", {"image_size": 32, "mean": (0.5, 0.5)},
        labels=str(tmp_path / "labels.csv"), listing_digest="abc",
    )  # fmt: skip
    finished_run.record(settings, "Nothing new.", [str(tmp_path / "served"), str(tmp_path / "no")])
    return settings


def test_the_same_run_again_is_recalled(settings):
    assert finished_run.recall(settings) == "Nothing new."
    assert finished_run.recall(dataclasses.replace(settings)) == "Nothing new."


def test_the_same_data_and_labels_elsewhere_are_the_same_run(settings, tmp_path):
    (tmp_path / "moved").mkdir()
    labels = (tmp_path / "labels.csv").rename(tmp_path / "moved" / "labels.csv")
    moved = dataclasses.replace(settings, data_dir="/moved", labels=str(labels))
    assert finished_run.recall(moved) == "Nothing new."
    # A folder that was not listed is known by its path only.
    unlisted = dataclasses.replace(moved, listing_digest="")
    finished_run.record(unlisted, "Nothing new.", [])
    assert finished_run.recall(unlisted)
    assert finished_run.recall(dataclasses.replace(unlisted, data_dir="/data")) is None


def test_components_see_local_inputs_under_names_that_stay(settings, tmp_path):
    (tmp_path / "data").mkdir()
    settings = dataclasses.replace(
        settings, data_dir=str(tmp_path / "data"), embed_data_dir="gs://bucket/corpus"
    )
    before = linked(settings)
    assert before.data_dir != settings.data_dir and before.embed_data_dir == "gs://bucket/corpus"
    assert canonical(before.data_dir) == canonical(settings.data_dir)
    assert canonical(before.labels) == canonical(settings.labels)
    (tmp_path / "data").rename(tmp_path / "moved")
    after = linked(dataclasses.replace(settings, data_dir=str(tmp_path / "moved")))
    assert after == before and canonical(after.data_dir) == canonical(str(tmp_path / "moved"))
    auto = linked(dataclasses.replace(settings, labels="auto"))
    assert auto.labels == "auto"
    remote = dataclasses.replace(settings, pipeline_root="gs://bucket/root")
    assert linked(remote) == remote


@pytest.mark.parametrize(
    "change",
    [
        {"listing_digest": "abd"},
        {"config": {"image_size": 32, "mean": (0.5, 0.4)}},
        {"min_spread": 0.2},
        {"enable_cache": False},
        {"labels": "auto"},
    ],
)
def test_other_settings_are_another_run(settings, change):
    assert finished_run.recall(dataclasses.replace(settings, **change)) is None


def test_other_labels_or_code_are_another_run(settings, tmp_path, monkeypatch):
    (tmp_path / "labels.csv").write_text("path,label\n1.jpg,cat\n")
    assert finished_run.recall(settings) is None
    (tmp_path / "labels.csv").write_text("path,label\n")
    assert finished_run.recall(settings)
    monkeypatch.setattr(finished_run, "package_digest", lambda: "other")
    assert finished_run.recall(settings) is None


def test_what_is_gone_or_damaged_or_forgotten_is_run_again(settings, tmp_path):
    (tmp_path / "served").rmdir()
    assert finished_run.recall(settings) is None
    (tmp_path / "served").mkdir()
    assert finished_run.recall(settings)
    whole = (tmp_path / "finished.json").read_text()
    (tmp_path / "finished.json").write_text(whole[:20])
    assert finished_run.recall(settings) is None
    (tmp_path / "finished.json").write_text(whole)
    finished_run.forget(settings)
    finished_run.forget(settings)
    assert finished_run.recall(settings) is None


def test_a_remote_file_that_may_change_is_never_recalled(tmp_path):
    settings = Settings("/data", str(tmp_path), "/s", {"image_size": 32}, labels="gs://b/l.csv")
    finished_run.record(settings, "Nothing new.", [])
    assert finished_run.recall(settings) is None
