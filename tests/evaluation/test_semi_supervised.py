import dataclasses
import json
import math

import keras
import ml_collections
import numpy as np
import pytest
from recorded_tuner import RecordedTuner, keys

from byol_tf.errors import UserError
from byol_tf.evaluation import semi_supervised
from byol_tf.evaluation.evaluated_encoder import EvaluatedEncoder
from byol_tf.evaluation.semi_supervised import Subset, hold_out
from byol_tf.evaluation.splits import Splits
from byol_tf.images.preprocessing import Preprocessing


def encoder(seed=0) -> EvaluatedEncoder:
    def build():
        keras.utils.set_random_seed(seed)
        return keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                keras.layers.Conv2D(8, 3),
                keras.layers.BatchNormalization(),
                keras.layers.ReLU(),
                keras.layers.GlobalAveragePooling2D(),
            ]
        )

    return EvaluatedEncoder("BYOL", build(), Preprocessing(8, 1.0), f"seed {seed}", build)


def config(**overrides) -> ml_collections.ConfigDict:
    values = {
        "fractions": (0.01, 0.1),
        "subset_files": (),
        "batch_size": 100,
        "base_lrs": (0.1, 0.4),
        "epochs": (3, 5),
        "validation_examples": 10_000,
    }
    return ml_collections.ConfigDict(values | overrides)


def images(images_dir, output_dir=None, seed=0) -> Splits:
    folders = (str(images_dir / name) for name in ("train", "test"))
    return Splits(*folders, seed=seed, output_dir=output_dir and str(output_dir))


@pytest.fixture
def tuner(monkeypatch):
    """Rates are scaled: 1 % is a batch of all 20 images, 10 % a batch of 100 of 250."""
    recorded = RecordedTuner(
        {0.1 * 20 / 256: 0.2, 0.4 * 20 / 256: 0.3, 0.1 * 100 / 256: 0.9, 0.4 * 100 / 256: None}
    )
    recorded.accuracies = {round(rate, 6): part for rate, part in recorded.accuracies.items()}
    monkeypatch.setattr(semi_supervised, "FineTuner", recorded)
    return recorded


def test_the_best_point_on_held_out_images_is_what_the_test_set_meets(images_dir, tuner):
    result = semi_supervised.evaluate(encoder(), images(images_dir), config())
    one, ten = result.subsets
    assert (one.num_labels, one.base_lr, one.epochs, one.batch_size) == (20, 0.4, 3, 20)
    # If the higher rate diverges, the lower one is chosen.
    assert (ten.num_labels, ten.base_lr, ten.epochs, ten.batch_size) == (250, 0.1, 3, 100)
    assert (one.top_1, ten.top_1) == (0.3, 0.9)
    assert one.top_5 == pytest.approx(0.5, abs=0.25) and one.num_test == 500
    assert [(p["base_lr"], p["epochs"], p["diverged"]) for p in ten.sweep] == [
        (0.1, 3, False),
        (0.4, 3, True),
        (0.1, 5, False),
        (0.4, 5, True),
    ]
    assert ten.sweep[0]["accuracy"] == pytest.approx(0.9, abs=0.01)
    # The test set is classified once per subset, after the last training; the rest is validation.
    test_keys = [len(keys(source)) for source in tuner.classified]
    assert test_keys == [250] * 4 + [500] + [250] * 2 + [500]


def test_steps_and_rates_are_those_of_the_epochs_and_the_batch(images_dir, tuner):
    semi_supervised.evaluate(encoder(), images(images_dir, seed=5), config())
    of_one, of_ten = tuner.trained[:5], tuner.trained[5:]
    assert [run["steps"] for run in of_one] == [3, 3, 5, 5, 3]
    assert [run["steps"] for run in of_ten] == [7, 7, 12, 12, 7]  # 3 · 250 / 100 and 5 · 250 / 100
    assert {run["batch_size"] for run in of_one} == {20}
    assert of_ten[1]["learning_rate"] == pytest.approx(0.4 * 100 / 256)
    assert {run["seed"] for run in tuner.trained} == {5}
    assert all("weight_decay" not in run for run in tuner.trained), "the paper has none"


def test_training_and_validation_images_are_of_the_training_set_and_apart(
    images_dir, tuner, tmp_path
):
    result = semi_supervised.evaluate(encoder(), images(images_dir, tmp_path), config())
    one, ten = (set(keys(tuner.trained[i]["source"])) for i in (0, -1))
    validation = set(keys(tuner.classified[0]))
    assert (len(one), len(ten), len(validation)) == (20, 250, result.num_validation)
    assert one < ten and not ten & validation
    for name, used in (("semi_supervised_1.txt", one), ("semi_supervised_10.txt", ten)):
        assert set((tmp_path / name).read_text().splitlines()) == used
    assert [subset.file for subset in result.subsets] == [
        str(tmp_path / f"semi_supervised_{percent}.txt") for percent in (1, 10)
    ]


def test_the_baseline_has_the_same_images_with_the_same_seed_only(images_dir, tuner):
    sets = []
    for pretrained, seed in ((encoder(0), 3), (encoder(1), 3), (encoder(0), 4)):
        tuner.trained.clear(), tuner.classified.clear()
        semi_supervised.evaluate(pretrained, images(images_dir, seed=seed), config())
        sets.append([keys(run["source"]) for run in tuner.trained] + [keys(tuner.classified[0])])
    pretrained_sets, baseline_sets, other_seed = sets
    assert pretrained_sets == baseline_sets
    assert all(ours != theirs for ours, theirs in zip(pretrained_sets, other_seed, strict=True))


def test_given_lists_take_the_place_of_draws(images_dir, tuner, tmp_path):
    semi_supervised.evaluate(encoder(), images(images_dir, tmp_path), config())
    drawn = [keys(run["source"]) for run in tuner.trained]
    files = tuple(str(tmp_path / f"semi_supervised_{percent}.txt") for percent in (1, 10))
    tuner.trained.clear(), tuner.classified.clear()
    result = semi_supervised.evaluate(
        encoder(), images(images_dir, seed=9), config(subset_files=files, fractions=())
    )
    assert [keys(run["source"]) for run in tuner.trained] == drawn
    assert [subset.file for subset in result.subsets] == list(files)
    assert [subset.percent for subset in result.subsets] == [0.8, 10]  # Counted: 20 of 2500.


def test_what_is_done_is_not_done_again(images_dir, tuner, tmp_path):
    splits = images(images_dir, tmp_path)
    first = semi_supervised.evaluate(encoder(), splits, config())
    assert len(tuner.trained) == 10
    assert semi_supervised.evaluate(encoder(), splits, config()) == first
    assert len(tuner.trained) == 12  # Plus the two final trainings.
    semi_supervised.evaluate(encoder(1), splits, config())
    assert len(tuner.trained) == 22


def test_held_out_images_are_few_enough_and_of_every_class_in_proportion():
    labels = np.repeat([0, 1, 2], [600, 300, 100])
    given = [Subset(1, np.arange(0, 1000, 50), None), Subset(10, np.arange(0, 1000, 10), None)]
    held_out = hold_out(labels, given, 10_000, seed=0)
    assert np.bincount(labels[held_out]) == pytest.approx([60, 30, 10], abs=1)
    assert not set(held_out) & set(range(0, 1000, 10)) and len(set(held_out)) == 100
    assert len(hold_out(labels, given, 50, seed=0)) == 50
    assert hold_out(labels, given, 50, seed=1).tolist() != hold_out(labels, given, 50, 0).tolist()


def test_subsets_that_leave_nothing_to_choose_by_are_a_sentence(images_dir, tuner):
    with pytest.raises(UserError, match="the subsets leave 0 of 2500"):
        semi_supervised.evaluate(encoder(), images(images_dir), config(fractions=(0.1, 1.0)))
    assert not tuner.made


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"fractions": (0.1, 2.0)}, "fraction of labels is 2.0"),
        ({"fractions": ()}, "neither fractions nor subset_files"),
        ({"base_lrs": (0.1, 0.0)}, "rates above 0"),
        ({"base_lrs": ()}, "at least one"),
        ({"epochs": ()}, "at least one"),
        ({"epochs": (0,)}, "at least 1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"validation_examples": 0}, "validation_examples 0"),
        ({"subset_files": ("missing.txt",)}, "'missing.txt' does not exist"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_trained(images_dir, tuner, wrong, says):
    with pytest.raises(UserError, match=says):
        semi_supervised.evaluate(encoder(), images(images_dir), config(**wrong))
    assert not tuner.made


def test_a_real_encoder_goes_through_the_whole_protocol(images_dir):
    few = config(fractions=(0.01,), base_lrs=(0.4, 1e22), epochs=(3,), validation_examples=20)
    result = semi_supervised.evaluate(encoder(), images(images_dir), few)
    (subset,) = result.subsets
    assert [point["diverged"] for point in subset.sweep] == [False, True]
    assert subset.base_lr == 0.4 and result.num_validation == 20
    # Wilson's interval of 500 trials contains the proportion and is about ± 1.96 σ wide.
    low, high = subset.interval
    assert low < subset.top_1 < high < subset.top_1 + 3 * math.sqrt(0.25 / 500)
    assert subset.top_1 <= subset.top_5 <= 1
    cells = result.cells()
    assert list(cells) == ["1 % labels top-1, % [95 % interval]", "1 % labels top-5, %"]
    assert cells["1 % labels top-5, %"] == f"{100 * subset.top_5:.1f}"
    json.dumps(dataclasses.asdict(result))
