"""Studies match the paper, runs are made once, tables and plots show their figures."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from quick_recipe import quick

from byol_tf.ablation import report, studies
from byol_tf.ablation.studies import KNN, LINEAR, RANK, SPREAD, Ablation
from byol_tf.configs import cifar10_demo, evaluation, imagenet
from byol_tf.evaluation.splits import Splits


def cells(study, base=None):
    return studies.STUDIES[study](base or imagenet.get_config("300"))


def config_of(study, line, point):
    base = imagenet.get_config("300")
    (cell,) = [cell for cell in cells(study) if (cell.line, cell.point) == (line, point)]
    return cell.config(base)


def test_batch_sizes_are_the_papers_at_the_same_optimization():
    sizes = [cell.point for cell in cells("batch_size") if cell.line == "BYOL"]
    assert sizes == ["4096", "2048", "1024", "512", "256", "128", "64"]
    for method in ("BYOL", "SimCLR"):
        config = config_of("batch_size", method, "256")
        assert config.batch_size == 4096 and config.micro_batches == 16
        assert config.method == method.lower()


def test_small_bases_stop_before_batch_norm_has_nothing_to_average():
    base = cifar10_demo.get_config()
    assert [c.point for c in cells("batch_size", base)][:4] == ["128", "64", "32", "16"]


def test_augmentations_are_taken_away_as_in_figure_3b():
    config = config_of("augmentations", "SimCLR", "no color")
    assert config.method == "simclr"
    for view in (config.augment.view_1, config.augment.view_2):
        assert view.jitter_prob == view.grayscale_prob == 0 and view.flip_prob == 0.5
    assert (config.augment.view_1.blur_prob, config.augment.view_2.solarize_prob) == (1.0, 0.2)
    config = config_of("augmentations", "BYOL", "no grayscale")
    assert config.augment.view_1.grayscale_prob == 0 and config.augment.view_1.jitter_prob == 0.8
    config = config_of("augmentations", "BYOL", "crop and blur only")
    assert [v.blur_prob for v in (config.augment.view_1, config.augment.view_2)] == [1.0, 0.1]
    config = config_of("augmentations", "BYOL", "crop only")
    for view in (config.augment.view_1, config.augment.view_2):
        left = {name: value for name, value in view.items() if name.endswith("_prob")}
        assert set(left.values()) == {0.0} and tuple(view.crop_area) == (0.08, 1.0)


def test_targets_follow_from_at_once_to_never_with_and_without_predictor():
    grid = {(cell.line, cell.point) for cell in cells("target_ema")}
    taus = ("0", "0.9", "0.99", "0.996", "0.999", "1")
    assert grid == {(f"{line} predictor", tau) for line in ("with", "without") for tau in taus}
    at_once = config_of("target_ema", "without predictor", "0")
    assert (at_once.base_ema, at_once.constant_ema, at_once.predictor) == (0.0, True, False)
    slow = config_of("target_ema", "with predictor", "0.996")
    assert (slow.base_ema, slow.constant_ema, slow.predictor) == (0.996, False, True)


def test_methods_differ_in_nothing_but_the_method():
    byol, simclr = (cell.config(imagenet.get_config("300")).to_dict() for cell in cells("method"))
    differing = {field for field in byol if byol[field] != simclr[field]}
    assert differing == {"method", "projection_size", "hidden_size"}


@pytest.mark.slow
def test_a_run_is_made_once_and_its_figures_are_read_again(images_dir, tmp_path):
    config = quick()
    config.batch_size = 64
    config.knn_every_epochs = 0
    protocols = evaluation.get_config()
    protocols.linear.views, protocols.linear.epochs = 0, 2
    images = str(images_dir / "test")
    grid = Ablation(images, Splits(images, images), protocols, str(tmp_path))
    figures = grid.figures(config)
    assert figures.keys() == {KNN, LINEAR, SPREAD, RANK} and 0 <= figures[KNN] <= 1
    (run,) = (tmp_path / "runs").iterdir()
    record = json.loads((run / "figures.json").read_text())
    assert record["pretrain"]["batch_size"] == 64 and record["figures"] == figures
    # Figures are read from disk, and nothing is trained.
    record["figures"][KNN] = 0.125
    (run / "figures.json").write_text(json.dumps(record))
    assert grid.figures(config)[KNN] == 0.125
    config.seed = 1
    tf.keras.utils.set_random_seed(0)
    assert grid.figures(config)[KNN] != 0.125 and len(list((tmp_path / "runs").iterdir())) == 2
    # The untrained encoder is evaluated, not trained.
    untrained = grid.untrained_figures(config)
    assert untrained.keys() == {KNN, LINEAR}


def measured(seeds=2):
    study = cells("method")
    return {
        cell: [
            {KNN: 0.25 + 0.1 * seed + 0.2 * place, LINEAR: 0.5, SPREAD: 0.75, RANK: 30.4}
            for seed in range(seeds)
        ]
        for place, cell in enumerate(study)
    }, [{KNN: 0.2, LINEAR: 0.3}] * seeds


def rows(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_the_table_has_mean_and_range_over_seeds():
    header, _, byol, simclr, before = rows(report.table(*measured()))
    assert header == ["run", "kNN top-1, %", "linear top-1, %", "projection std", "effective rank"]
    assert byol[:2] == ["BYOL, base", "30.0 [25.0, 35.0]"] and simclr[1] == "50.0 [45.0, 55.0]"
    assert before == ["before training", "20.0 [20.0, 20.0]", "30.0 [30.0, 30.0]", "-", "-"]


def test_one_seed_has_no_range():
    _, _, byol, *_ = rows(report.table(*measured(seeds=1)))
    assert byol == ["BYOL, base", "25.0", "50.0", "0.75", "30"]


def test_the_plot_is_a_picture_of_all_lines(tmp_path):
    from PIL import Image

    path = tmp_path / "method.png"
    report.plot("method", *measured(), str(path))
    picture = np.asarray(Image.open(path).convert("RGB"))
    for color in ((0x33, 0x66, 0xAA), (0xCC, 0x66, 0x22), (0x88, 0x88, 0x88)):
        assert (np.abs(picture.astype(int) - color).sum(axis=-1) < 12).sum() > 20


def test_keras_is_left_as_it_was():
    assert keras.mixed_precision.global_policy().name == "float32"
