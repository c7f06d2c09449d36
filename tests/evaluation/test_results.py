import json
import subprocess

import byol_tf
from byol_tf.evaluation import results
from byol_tf.evaluation.knn import KNNResult
from byol_tf.evaluation.linear import LinearResult

ABOUT = {
    "command": "byol-evaluate --run_dir=run",
    "model": "run/checkpoints/ckpt-8",
    "train": {"source": "train", "examples": 2500},
    "test": {"source": "test", "examples": 500},
    "wall_seconds": 12.34,
}


def linear(top_1):
    interval = (top_1 - 0.04, top_1 + 0.04)
    return LinearResult(top_1, 0.9, interval, 0.2, {0.4: 0.5, 0.2: 0.6}, 1024, 500)


def record(**protocols):
    return results.as_record({"BYOL": protocols, "raw pixels": protocols}, **ABOUT)


def test_the_table_has_a_row_an_encoder_and_a_column_a_figure():
    table = results.as_table(record(knn=KNNResult(0.5, 0.8, 200, 500), linear=linear(0.625)))
    header, rule, *rows = (line for line in table.splitlines() if line.startswith("|"))
    assert [cell.strip() for cell in header.strip("|").split("|")] == [
        "encoder", "kNN top-1, %", "linear top-1, % [95 % interval]", "linear top-5, %",
    ]  # fmt: skip
    assert set(rule) == {"|", "-"} and len({len(line) for line in (header, rule, *rows)}) == 1
    assert [cell.strip() for cell in rows[0].strip("|").split("|")] == [
        "BYOL", "50.0", "62.5 [58.5, 66.5]", "90.0",
    ]  # fmt: skip
    assert rows[1].startswith("| raw pixels")


def test_the_table_says_how_it_came_about():
    table = results.as_table(record(knn=KNNResult(0.5, 0.8, 200, 500)))
    assert "linear" not in table
    assert "`byol-evaluate --run_dir=run`" in table
    assert "2500 images for training, 500 images for the test; run/checkpoints/ckpt-8; " in table
    assert "; 12 s; commit " in table


def test_a_table_can_be_made_from_the_file():
    original = record(knn=KNNResult(0.5, 0.8, 200, 500), linear=linear(0.625))
    read = json.loads(results.as_json(original))
    assert results.as_table(read) == results.as_table(original)
    assert read["rows"][0]["linear"]["validation_accuracy"] == {"0.4": 0.5, "0.2": 0.6}
    assert read["versions"]["byol_tf"] == byol_tf.__version__
    assert read["hardware"]["cpus"] >= 1 and read["hardware"]["cpu"]


def test_the_commit_is_that_of_the_checkout_and_says_when_it_was_changed(tmp_path):
    def git(*arguments):
        command = ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    file = tmp_path / "module.py"
    file.write_text("1")
    assert results._commit(file) is None, "no checkout"
    git("init")
    assert results._commit(file) is None, "a checkout of something else"
    git("add", "module.py")
    git("commit", "-m", "first", "--no-verify")
    assert results._commit(file) == git("rev-parse", "HEAD")
    file.write_text("2")
    assert results._commit(file) == git("rev-parse", "HEAD") + "-dirty"


def test_sets_whose_size_is_not_known_are_named():
    about = ABOUT | {"train": {"source": "voc:VOC:train"}, "test": {"source": "voc:VOC:val"}}
    table = results.as_table(results.as_record({"BYOL": {"knn": KNNResult(1, 1, 9, 9)}}, **about))
    assert "'voc:VOC:train' for training, 'voc:VOC:val' for the test" in table


def test_rows_with_different_protocols_leave_cells_open():
    rows = {"BYOL": {"knn": KNNResult(0.5, 0.8, 200, 500)}, "random": {"linear": linear(0.25)}}
    header, _, first, second, *_ = results.as_table(results.as_record(rows, **ABOUT)).splitlines()
    assert header.count("|") == 5
    assert [cell.strip() for cell in first.strip("|").split("|")] == ["BYOL", "50.0", "-", "-"]
    assert second.startswith("| random  | -")
