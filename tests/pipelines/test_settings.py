import dataclasses

import pytest

from byol_tf.errors import UserError
from pipelines.settings import Settings

GOOD = {
    "data_dir": "/data",
    "pipeline_root": "/root/of/runs",
    "serving_model_dir": "/models",
    "config": {"image_size": 32},
}


def test_paths_follow_from_the_folders():
    settings = Settings(**GOOD, model_name="birds")
    assert settings.metadata_path == "/root/of/runs/metadata.sqlite"
    assert settings.training_dir == "/root/of/runs/training"
    assert settings.model_dir == "/models/birds"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"name": "My Pipeline"}, "My Pipeline"),
        ({"name": "-a"}, "-a"),
        ({"name": "a" * 129}, "128"),
        ({"model_name": "a/b"}, "a/b"),
        ({"model_name": ".."}, "'..'"),
        ({"model_name": ""}, "''"),
        ({"input_splits": {"train": "a/**", "test": "b/**"}}, "train, test"),
        ({"output_splits": {"learn": 9, "eval": 1}}, "learn, eval"),
        (
            {
                "input_splits": {"train": "a/**", "eval": "b/**"},
                "output_splits": {"train": 9, "eval": 1},
            },
            "only one of the two",
        ),
        ({"shorter_side": 31}, "31"),
        ({"max_drift": float("nan")}, "max_drift"),
        ({"stop_on": "fatal"}, "fatal"),
        ({"infra_validator": "podman"}, "podman"),
        *(
            ({name: value}, name)
            for name in (
                "max_corrupt_fraction",
                "max_drift",
                "min_accuracy",
                "max_accuracy_loss",
                "min_spread",
                "max_measure_loss",
            )
            for value in (-0.1, 1.1)
        ),
    ],
)
def test_what_cannot_be_is_a_sentence(given, said):
    with pytest.raises(UserError) as error:
        Settings(**GOOD | given)
    assert said in str(error.value)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


@pytest.mark.parametrize(
    "given",
    [
        {"input_splits": {"train": "a/**", "eval": "b/**", "test": "c/**"}},
        {"output_splits": {"train": 8, "eval": 1, "test": 1}},
        {"input_splits": {"all": "{SPAN}/**"}, "output_splits": {"train": 9, "eval": 1}},
        {"max_drift": 0, "max_corrupt_fraction": 1},
        {"shorter_side": 32},
        {"model_name": "birds-v2.1_b"},
    ],
)
def test_what_can_be_is_taken_as_it_is(given):
    settings = Settings(**GOOD, **given)
    assert {name: getattr(settings, name) for name in given} == given


def test_settings_stay_what_they_are():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings(**GOOD).name = "other"
