"""byol-embed's folder of partitions: each image once and new, after kills at every step."""

import hashlib
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
from serve import ROOT

from serving.errors import UserError
from serving.search import catalogue, partitions
from serving.search.store import Store


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    monkeypatch.setattr(partitions, "LARGE", 50)
    monkeypatch.setattr(partitions, "ROWS", 20)
    monkeypatch.chdir(tmp_path)


def vector(content):
    """An embedding that tells the content of an image's file."""
    return np.frombuffer(hashlib.sha256(content).digest(), np.uint8)[:8].astype(np.float32)


def about(**more):
    return {"model": {"a": 1}, "probe": [1.0] * 8, "root": os.getcwd()} | more


def run(output="out.parquet", prune=True, part=7, stop_after=10**9):
    """What byol-embed does with the files below `photos`; returns the number of embedded ones."""
    images = sorted(map(str, pathlib.Path("photos").iterdir()))
    store = Store(output, about(), images)
    embedded = 0
    try:
        store.expect(store.catalogue.wait_for(images, store.first_part))
        gone = store.catalogue.gone(images)
        for batch in store.catalogue.waiting(part):
            if embedded >= stop_after:
                return embedded
            keys = [key for key, _, _ in batch]
            values = np.stack([vector(pathlib.Path(path).read_bytes()) for _, path, _ in batch])
            stats = np.array([catalogue.stat(path) for _, path, _ in batch])
            store.add(keys, values, stats)
            embedded += len(batch)
        if prune:
            store.catalogue.drop(gone)
        store.finish()
    finally:
        store.close()
    return embedded


def check(folder="out.parquet"):
    """Each image is there once, with the embedding of its content; other readers see the same."""
    expected = {
        str(path): vector(path.read_bytes()).tolist() for path in pathlib.Path("photos").iterdir()
    }
    table = pq.read_table(folder, columns=["key", "embedding"]).to_pydict()
    assert len(table["key"]) == len(expected)
    assert dict(zip(table["key"], table["embedding"], strict=True)) == expected
    assert not pathlib.Path(f"{folder}.parts").exists()


def photo(number, content):
    pathlib.Path("photos").mkdir(exist_ok=True)
    pathlib.Path(f"photos/{number:03d}.jpg").write_text(content)


def state(folder="out.parquet"):
    return {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir()}


def test_a_large_corpus_is_a_folder_and_a_small_one_a_file():
    for number in range(50):
        photo(number, str(number))
    run()
    assert pathlib.Path("out.parquet").is_file()
    check()
    photo(50, "one more")
    assert run() == 1  # The file became a folder, and nothing was embedded again.
    assert pathlib.Path("out.parquet").is_dir()
    check()
    for number in range(51, 90):
        photo(number, str(number))
    assert run("other.npy") == 90
    assert pathlib.Path("other.npy").is_file()


def test_finished_partitions_are_not_written_again():
    for number in range(100):
        photo(number, str(number))
    assert run() == 100
    check()
    before = state()
    assert len(before) >= 4 and all(re.fullmatch(r"part-\d{5}\.parquet", name) for name in before)
    assert run() == 0
    assert state() == before
    for number in range(100, 130):
        photo(number, str(number))
    photo(3, "changed")
    os.remove("photos/004.jpg")
    assert run() == 31
    check()
    after = state()
    # Of the old ones, that with the changed images is gone, and maybe the last, which had room.
    assert len(before.keys() - after.keys()) <= 2
    assert all(after[name] == before[name] for name in before.keys() & after.keys())


@pytest.mark.parametrize("seed", range(3))
def test_a_run_killed_at_any_step_is_continued(monkeypatch, seed):
    rng = random.Random(seed)
    for number in range(60):
        photo(number, str(number))
    run()
    for step in range(1, 100):
        for _ in range(30):
            photo(rng.randrange(120), str(rng.random()))
        for name in rng.sample(sorted(os.listdir("photos")), 2):
            os.remove(f"photos/{name}")
        steps = step

        def counted(real):
            def call(*arguments, **named):
                nonlocal steps
                steps -= 1
                if not steps:
                    raise KeyboardInterrupt
                return real(*arguments, **named)

            return call

        with monkeypatch.context() as patch:
            for name in ("remove", "replace", "rename", "makedirs"):
                patch.setattr(os, name, counted(getattr(os, name)))
            try:
                run()
            except KeyboardInterrupt:
                pass
            else:
                break
        run(prune=True)
        check()
    assert step > 10


def test_what_a_killed_run_has_finished_is_not_embedded_again():
    for number in range(100):
        photo(number, str(number))
    pathlib.Path("out.parquet").mkdir()
    pathlib.Path("out.parquet/part-00000.parquet.123.tmp").write_bytes(b"PAR1 half")
    assert run(stop_after=50) == 56
    assert len(list(pathlib.Path("out.parquet").iterdir())) >= 2
    pathlib.Path("out.parquet/part-00002.parquet.123.tmp").write_bytes(b"PAR1 half")
    assert run() == 44
    check()


def test_without_prune_embeddings_of_deleted_images_stay():
    for number in range(60):
        photo(number, str(number))
    run()
    os.remove("photos/005.jpg")
    run(prune=False)
    assert "photos/005.jpg" in pq.read_table("out.parquet")["key"].to_pylist()
    run()
    check()


def test_partitions_of_another_model_are_refused():
    for number in range(60):
        photo(number, str(number))
    run()
    before = state()
    with pytest.raises(UserError, match="'out.parquet' holds embeddings of a 1, and this is b 2"):
        Store("out.parquet", about(model={"b": 2}, probe=[2.0] * 8), [])
    with pytest.raises(UserError, match="another way"):
        Store("out.parquet", about(probe=[1.0] * 9), [])
    assert state() == before and not pathlib.Path("out.parquet.parts").exists()
    pathlib.Path("x.parquet").mkdir()
    pathlib.Path("x.parquet/a.txt").write_text("")
    with pytest.raises(UserError, match="a folder of other files"):
        Store("x.parquet", about(), [])


_FILL = """
import resource, sys
import numpy as np
from serving.search import partitions
from serving.search.store import Store
partitions.LARGE, partitions.ROWS = 1000, 1 << 13
store = Store("big.parquet", {"probe": [0.0] * 256, "root": "."}, [])
count = 1 << 16
store.expect(count)
for start in range(0, count, 2048):
    keys = [f"photos/{row:08d}.jpg" for row in range(start, start + 2048)]
    store.add(keys, np.ones([2048, 256], np.float32), np.full([2048, 2], start))
    if start == count // 4:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
store.finish()
store.close()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_grow_with_the_embeddings(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", _FILL]
    grown = subprocess.check_output(command, env=environment, cwd=tmp_path, text=True)
    assert int(grown) >> 10 < 16  # MiB; the rows that were added since have 48.


_SMALL = """
from serving.search import embed, partitions
partitions.LARGE, partitions.ROWS, embed._IMAGES_PER_PART = 500, 400, 64
embed.run()
"""


def test_the_commands_with_a_large_corpus(server, images_dir, tmp_path):
    arguments = [f"--address={server.address}", "--output=out.parquet", "--index", "--prune"]
    images = [str(path) for path in sorted((images_dir / "train").iterdir())[:4]]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", _SMALL, *arguments, *images]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(tmp_path.glob("out.parquet/part-*.parquet")):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {path: path.read_bytes() for path in tmp_path.glob("out.parquet/part-*.parquet")}
    assert done and not (tmp_path / "out.parquet.faiss").exists()
    told = subprocess.check_output(command, cwd=tmp_path, env=environment, text=True)
    new = int(re.search(r"out.parquet: 1000 embeddings, (\d+) of them new", told)[1])
    assert new <= 1000 - 400 and "of the 10 nearest images of an image" in told
    assert all(path.read_bytes() == content for path, content in done.items())
    table = pq.read_table(tmp_path / "out.parquet")
    keys, values = table["key"].to_pylist(), np.stack(table["embedding"].to_numpy())
    assert len(set(keys)) == 1000
    command = [
        sys.executable,
        "-m",
        "serving.search.neighbors",
        "--embeddings=out.parquet",
        keys[7],
    ]
    told = subprocess.check_output(command, cwd=tmp_path, env=environment, text=True)
    assert re.search(r"Searched 1,000 images of out.parquet approximately \(recall [01]\.\d", told)
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    best = [keys[row] for row in np.argsort(-unit @ unit[7])[1:11]]
    found = [line.split()[1] for line in told.splitlines()[1:11]]
    assert len(set(found) & set(best)) >= 8
