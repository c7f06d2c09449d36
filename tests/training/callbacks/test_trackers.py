"""Runs in the stores of the real packages, offline; skipped where they are not installed."""

import json
import struct

import numpy as np
import pytest
from quick_recipe import quick

from byol_tf.errors import UserError
from byol_tf.runs import read_history
from byol_tf.training import pretrain
from byol_tf.training.callbacks import trackers


def smoke(logger, epochs=2):
    config = quick()
    config.update(logger=logger, epochs=epochs, batch_size=64, knn_every_epochs=0)
    config.precision = "float32"
    return config


class Stop(Exception):
    pass


@pytest.fixture
def run(images_dir, tmp_path, monkeypatch):
    """Trains two epochs with a logger, stopped after the first and resumed; returns the run_dir."""

    def train(logger):
        config, run_dir = smoke(logger), str(tmp_path / "photos")
        fit = pretrain._fit

        def one_epoch(model, views, steps_per_epoch, start_step, epochs, callbacks):
            fit(model, views, steps_per_epoch, start_step, 1, callbacks)
            raise Stop

        with monkeypatch.context() as patch, pytest.raises(Stop):
            patch.setattr(pretrain, "_fit", one_epoch)
            pretrain.pretrain(config, str(images_dir / "test"), run_dir)
        pretrain.pretrain(config, str(images_dir / "test"), run_dir)
        return run_dir

    return train


@pytest.mark.slow
def test_mlflow_has_the_curves_and_the_config_of_a_resumed_run(run, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(f"file://{tmp_path}/mlruns")
    run_dir = run("mlflow")
    (entry,) = mlflow.MlflowClient().search_runs(["0"])  # One run, not one per process.
    assert entry.info.run_name == "photos" and entry.info.status == "FINISHED"
    assert entry.data.params["optimizer.name"] == "lars" and entry.data.params["epochs"] == "2"
    logged = mlflow.MlflowClient().get_metric_history(entry.info.run_id, "loss")
    history = read_history(run_dir)
    assert [point.step for point in logged] == [0, 1]
    np.testing.assert_allclose(
        [point.value for point in logged], [float(row["loss"]) for row in history], rtol=1e-5
    )
    assert "effective_rank" in entry.data.metrics


def wandb_records(content):
    """The records of a .wandb file, which is a LevelDB log: blocks of 32 kB with parts of records.

    A part is a CRC of 4 bytes, a length of 2, a kind (1 whole, 2 first, 3 middle, 4 last), bytes.
    """
    from wandb.proto import wandb_internal_pb2

    position, record = 7, b""  # After the file's own header.
    while position + 7 <= len(content):
        if 0x8000 - position % 0x8000 < 7:  # Padding: no header fits into the block.
            position += 0x8000 - position % 0x8000
            continue
        length, kind = struct.unpack("<HB", content[position + 4 : position + 7])
        record += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            yield wandb_internal_pb2.Record.FromString(record)
            record = b""


@pytest.mark.slow
def test_wandb_offline_has_both_parts_of_a_resumed_run(run, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run_dir = run("wandb")
    name = json.loads((tmp_path / "photos" / "trackers.json").read_text())["wandb"]
    files = sorted((tmp_path / "photos" / "wandb").glob(f"offline-run-*-{name}/run-{name}.wandb"))
    assert len(files) == 2  # One a process; the server joins those of one name.
    losses = [
        json.loads(item.value_json)
        for file in files
        for record in wandb_records(file.read_bytes())
        for item in record.history.item
        if "epoch/loss" in (item.key, *item.nested_key)
    ]
    wanted = [float(row["loss"]) for row in read_history(run_dir)]
    np.testing.assert_allclose(losses, wanted, rtol=1e-5)


def test_a_missing_package_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'byol_tf\[wandb\]'"):
        trackers.check("wandb")
    trackers.check("")


def test_an_unknown_logger_is_refused_before_anything_is_written(images_dir, tmp_path):
    with pytest.raises(UserError, match="logger is 'comet'; give mlflow, wandb or ''"):
        pretrain.pretrain(smoke("comet"), str(images_dir / "test"), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
