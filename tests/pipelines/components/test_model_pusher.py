import os
import threading
import time

import pytest

from pipelines.components.model_pusher import versions as pusher
from pipelines.components.model_pusher.versions import push, tree_digest, versions


def make_tree(folder, contents):
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return str(folder)


def contents_of(folder):
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


MODEL = {"saved_model.pb": b"graph", "variables/variables.index": b"i", "assets/names": b"n"}


def test_the_copy_is_the_model(tmp_path):
    model = make_tree(tmp_path / "model", MODEL)
    path = push(model, str(tmp_path / "served" / "byol"), "7")
    assert path == str(tmp_path / "served" / "byol" / "7")
    assert contents_of(tmp_path / "served") == {f"byol/7/{k}": v for k, v in MODEL.items()}


def test_a_version_is_never_seen_without_all_of_its_files(tmp_path):
    files = {f"variables/{number}": bytes(4096) for number in range(500)}
    model, base = make_tree(tmp_path / "model", files | MODEL), tmp_path / "served"
    base.mkdir()
    done, looks, seen = threading.Event(), [0], []

    def watch():
        while not done.is_set():
            looks[0] += 1
            for name in os.listdir(base):
                if name.isdecimal():
                    seen.append(sum(len(names) for _, _, names in os.walk(base / name)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    for version in ("1", "2"):
        push(model, str(base), version)
        before = looks[0]
        while looks[0] < before + 2:
            time.sleep(0.001)
    done.set()
    watcher.join()
    assert looks[0] > 20 and set(seen) == {503}


def test_a_push_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    model, base = make_tree(tmp_path / "model", MODEL), tmp_path / "served"
    push(model, str(base), "1")

    def half(source, target):
        make_tree(tmp_path / "served" / os.path.basename(target), {"variables/half": b""})
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pusher, "_copy", half)
    with pytest.raises(OSError, match="No space left"):
        push(model, str(base), "2")
    assert contents_of(base) == {f"1/{k}": v for k, v in MODEL.items()}


def test_what_a_killed_push_left_is_no_version_and_is_removed_by_the_next(tmp_path):
    model, base = make_tree(tmp_path / "model", MODEL), tmp_path / "served"
    make_tree(base / ".pushing-1a2b3c4d", {"saved_model.pb": b"half"})
    assert versions(str(base)) == []
    push(model, str(base), "1")
    assert sorted(os.listdir(base)) == ["1"]


def test_versions_are_the_numbers(tmp_path):
    assert versions(str(tmp_path / "nowhere")) == []
    for name in ("9", "10", "latest", ".pushing-1", "1.tmp"):
        (tmp_path / name).mkdir()
    assert sorted(versions(str(tmp_path))) == [9, 10]


def test_the_digest_is_of_names_and_contents(tmp_path):
    other = [
        MODEL | {"saved_model.pb": b"Graph"},
        MODEL | {"more": b""},
        {k: v for k, v in MODEL.items() if k != "assets/names"} | {"assets/name": b"n"},
        {k: v for k, v in MODEL.items() if k != "assets/names"},
    ]
    trees = [make_tree(tmp_path / str(n), tree) for n, tree in enumerate([MODEL, MODEL, *other])]
    digests = [tree_digest(tree) for tree in trees]
    assert digests[0] == digests[1] and len(set(digests)) == 1 + len(other)


class Pipeline:
    """Surroundings of the executor: a model, its blessings, a folder to push to."""

    def __init__(self, folder):
        self.folder, self.runs = folder, 0
        self.base = folder / "served" / "byol"

    def push(self, contents, blessed=1, servable=1):
        """Runs the executor; returns its PushedModel."""
        from tfx import v1 as tfx
        from tfx.utils import proto_utils

        from pipelines.components.model_pusher.executor import Executor

        self.runs += 1
        uri = self.folder / str(self.runs)
        model = tfx.types.standard_artifacts.Model()
        model.uri = str(uri / "model")
        make_tree(uri / "model" / "Format-Serving", contents)
        blessing, infra = (
            tfx.types.standard_artifacts.ModelBlessing(),
            tfx.types.standard_artifacts.InfraBlessing(),
        )
        blessing.set_int_custom_property("blessed", blessed)
        infra.set_string_custom_property("blessing_status", "")
        infra.set_int_custom_property("blessed", servable)
        pushed = tfx.types.standard_artifacts.PushedModel()
        pushed.uri = str(uri / "pushed")
        destination = tfx.proto.PushDestination(
            filesystem=tfx.proto.PushDestination.Filesystem(base_directory=str(self.base))
        )
        Executor().Do(
            {"model": [model], "model_blessing": [blessing], "infra_blessing": [infra]},
            {"pushed_model": [pushed]},
            {
                "push_destination": proto_utils.proto_to_json(destination),
                "custom_config": "null",
            },
        )
        return pushed

    def served(self):
        return sorted(int(name) for name in os.listdir(self.base)) if self.base.exists() else []


@pytest.fixture
def pipeline(tmp_path):
    return Pipeline(tmp_path)


@pytest.mark.slow
def test_a_blessed_model_is_pushed_and_recorded(pipeline):
    before = int(time.time())
    pushed = pipeline.push(MODEL)
    (version,) = pipeline.served()
    assert before <= version <= time.time()
    assert contents_of(pipeline.base / str(version)) == MODEL
    assert pushed.get_int_custom_property("pushed") == 1
    assert pushed.get_string_custom_property("pushed_version") == str(version)
    destination = pushed.get_string_custom_property("pushed_destination")
    assert destination == str(pipeline.base / str(version))
    assert contents_of(pipeline.folder / "1" / "pushed") == MODEL


@pytest.mark.slow
@pytest.mark.parametrize(("blessed", "servable"), [(0, 1), (1, 0), (0, 0)])
def test_a_model_without_both_blessings_is_not(pipeline, blessed, servable):
    pipeline.push(MODEL)
    served = pipeline.served()
    pushed = pipeline.push(MODEL | {"saved_model.pb": b"worse"}, blessed, servable)
    assert pushed.get_int_custom_property("pushed") == 0
    assert not pushed.has_custom_property("pushed_destination")
    assert pipeline.served() == served
    assert contents_of(pipeline.base / str(served[0])) == MODEL


@pytest.mark.slow
def test_the_served_model_blessed_again_is_unchanged(pipeline):
    pipeline.push(MODEL)
    served = pipeline.served()
    pushed = pipeline.push(MODEL)
    assert pipeline.served() == served
    assert pushed.get_int_custom_property("pushed") == 0
    assert pushed.get_int_custom_property("unchanged") == 1
    assert pushed.get_string_custom_property("pushed_version") == str(served[0])


@pytest.mark.slow
def test_a_model_served_before_the_newest_is_pushed_again(pipeline):
    other = MODEL | {"saved_model.pb": b"other"}
    for contents in (MODEL, other, MODEL):
        pipeline.push(contents)
    served = [contents_of(pipeline.base / str(version)) for version in pipeline.served()]
    assert served == [MODEL, other, MODEL]


@pytest.mark.slow
@pytest.mark.parametrize("clock", [[1000] * 3, [1000, 500, 200]])
def test_versions_increase_though_the_clock_does_not(pipeline, monkeypatch, clock):
    ticks = iter(clock)
    monkeypatch.setattr(time, "time", lambda: next(ticks))
    versions_pushed = [
        pipeline.push(MODEL | {"n": bytes([n])}).get_string_custom_property("pushed_version")
        for n in range(3)
    ]
    assert versions_pushed == ["1000", "1001", "1002"]
    assert pipeline.served() == [1000, 1001, 1002]
