import dataclasses
import json

import keras
import ml_collections
import numpy as np
import pytest
from recorded_tuner import RecordedTuner, keys

from byol_tf.errors import UserError
from byol_tf.evaluation import fine_tuning
from byol_tf.evaluation.evaluated_encoder import EvaluatedEncoder
from byol_tf.evaluation.splits import Splits
from byol_tf.images.preprocessing import Preprocessing


def encoder() -> EvaluatedEncoder:
    def build():
        keras.utils.set_random_seed(0)
        return keras.Sequential(
            [keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(8)]
        )

    return EvaluatedEncoder("BYOL", build(), Preprocessing(8, 1.0), "f", build)


def config(**overrides) -> ml_collections.ConfigDict:
    values = {
        "steps": 7,
        "batch_size": 16,
        "learning_rates": (0.01, 0.1, 1.0),
        "weight_decays": (0.0, 1e-3),
        "validation_fraction": 0.1,
        "metric": "top_1",
    }
    return ml_collections.ConfigDict(values | overrides)


@pytest.fixture
def tuner(monkeypatch):
    recorded = RecordedTuner({0.01: 0.3, 0.1: 0.75, 1.0: None})
    monkeypatch.setattr(fine_tuning, "FineTuner", recorded)
    return recorded


def images(images_dir, output_dir=None) -> Splits:
    folders = (str(images_dir / name) for name in ("train", "test"))
    return Splits(*folders, seed=4, output_dir=output_dir and str(output_dir))


def test_the_best_pair_is_trained_anew_on_all_images_and_tested_once(images_dir, tuner):
    result = fine_tuning.evaluate(encoder(), images(images_dir), config())
    assert (result.learning_rate, result.weight_decay, result.value) == (0.1, 0.0, 0.75)
    assert [point["diverged"] for point in result.sweep] == [False] * 4 + [True] * 2
    *sweep, final = tuner.trained
    kept, held_out = keys(sweep[0]["source"]), keys(tuner.classified[0])
    assert len(kept) == 2250 and len(held_out) == 250
    assert sorted(kept + held_out) == keys(final["source"])
    assert all(keys(run["source"]) == kept for run in sweep)
    assert [len(keys(source)) for source in tuner.classified] == [250] * 4 + [500]
    assert (result.num_train, result.num_test) == (2500, 500)
    low, high = result.interval
    assert low < 0.75 < high and high - low == pytest.approx(2 * 1.96 * (0.1875 / 500) ** 0.5, 0.01)
    json.dumps(dataclasses.asdict(result))


def test_the_grid_is_of_every_rate_with_every_decay_divided_by_the_rate(images_dir, tuner):
    fine_tuning.evaluate(encoder(), images(images_dir), config())
    pairs = [(run["learning_rate"], run["weight_decay"]) for run in tuner.trained]
    expected = [(0.01, 0), (0.01, 0.1), (0.1, 0), (0.1, 0.01), (1, 0), (1, 0.001), (0.1, 0)]
    assert np.array(pairs) == pytest.approx(np.array(expected))
    for run in tuner.trained:
        assert (run["steps"], run["batch_size"], run["seed"]) == (7, 16, 4)


def test_batch_norm_forgets_at_the_rate_of_the_papers_formula(images_dir, tuner):
    fine_tuning.evaluate(encoder(), images(images_dir), config())
    # 2250 and 2500 images in batches of 16.
    assert [arguments[1:] for arguments in tuner.made] == [
        (10, pytest.approx(1 - 10 * 16 / 2250)),
        (10, pytest.approx(1 - 10 * 16 / 2500)),
    ]
    assert fine_tuning.batch_norm_momentum(1000) == pytest.approx(0.99)
    assert fine_tuning.batch_norm_momentum(50) == 0.9
    assert fine_tuning.batch_norm_momentum(0.5) == 0.9


def test_mean_per_class_weighs_classes_and_not_images(tmp_path, images_dir, tuner):
    # The only test image of class 0 is right; the last 25 of 99 of class 1 are wrong.
    for split, counts in (("train", (20, 20)), ("test", (1, 99))):
        files = sorted((images_dir / "train").glob("*/*.jpg"))
        for label, count in enumerate(counts):
            (tmp_path / split / f"class{label}").mkdir(parents=True)
            for number in range(count):
                copy = tmp_path / split / f"class{label}" / f"{number}.jpg"
                copy.symlink_to(files[number])
    splits = Splits(str(tmp_path / "train"), str(tmp_path / "test"))
    options = config(learning_rates=(0.1,), metric="mean_per_class")
    result = fine_tuning.evaluate(encoder(), splits, options)
    assert result.value == pytest.approx((1 + 74 / 99) / 2)
    assert result.interval is None
    assert result.cells() == {"fine-tuned mean per class, %": "87.4"}


def test_an_interrupted_sweep_continues(images_dir, tuner, tmp_path):
    first = fine_tuning.evaluate(encoder(), images(images_dir, tmp_path), config())
    assert len(tuner.trained) == 7
    assert fine_tuning.evaluate(encoder(), images(images_dir, tmp_path), config()) == first
    assert len(tuner.trained) == 8
    # Other settings are another sweep.
    fine_tuning.evaluate(encoder(), images(images_dir, tmp_path), config(steps=8))
    assert len(tuner.trained) == 15


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"metric": "voc07_map"}, "metric is 'voc07_map'; give top_1, mean_per_class"),
        ({"learning_rates": (0.1, 0.0)}, "rates above 0"),
        ({"learning_rates": ()}, "at least one of each"),
        ({"weight_decays": (-1e-3,)}, "decays from 0"),
        ({"weight_decays": ()}, "at least one of each"),
        ({"steps": 0}, "steps is 0"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"validation_fraction": 0.6}, r"fraction in \(0, 0.5\]"),
        ({"validation_fraction": 1e-5}, "too few to hold out"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_trained(images_dir, tuner, wrong, says):
    with pytest.raises(UserError, match=says):
        fine_tuning.evaluate(encoder(), images(images_dir), config(**wrong))
    assert not tuner.made


def test_voc_with_its_several_labels_an_image_is_refused(tuner):
    splits = Splits("voc:VOC2007:trainval", "voc:VOC2007:test")
    with pytest.raises(UserError, match="voc:VOC2007:trainval' has several labels.*transfer"):
        fine_tuning.evaluate(encoder(), splits, config())


def test_a_real_encoder_goes_through_the_whole_protocol(images_dir):
    few = config(steps=3, learning_rates=(0.01, 1e22), weight_decays=(1e-4,))
    result = fine_tuning.evaluate(encoder(), images(images_dir), few)
    assert [point["diverged"] for point in result.sweep] == [False, True]
    assert (result.learning_rate, result.weight_decay) == (0.01, 1e-4)
    low, high = result.interval
    text = f"{100 * result.value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
    assert result.cells() == {"fine-tuned top-1, % [95 % interval]": text}
