"""Folders of partitions and their approximate index: against NumPy, after kills, and forged."""

import dataclasses
import hashlib
import os
import pathlib
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from absl import flags

from serving.errors import UserError
from serving.search import (
    approximate,
    duplicates,
    embeddings,
    index,
    ivf_file,
    neighbors,
    partitions,
    scan,
)
from serving.search.corpus import Corpus

PROBE = {"model": {"SavedModel": "0123"}, "probe": [1.0] * 24, "root": os.getcwd()}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(partitions, "LARGE", 1000)
    monkeypatch.setattr(partitions, "ROWS", 512)


def clustered(rows, size=24, seed=0):
    """A mixture of 40 clusters around a common mean, with a decaying spectrum."""
    scale = np.arange(1, size + 1) ** -0.5
    centres = np.random.default_rng(9).normal(size=(40, size)) * scale + 0.3
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(rows, size)) * scale * 0.3
    lengths = rng.uniform(0.5, 20, size=(rows, 1))  # Only the direction counts.
    return ((centres[rng.integers(0, 40, rows)] + noise) * lengths).astype(np.float32)


def unit64(values):
    values = values.astype(np.float64)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def write(folder, values, rows=700):
    for start in range(0, len(values), rows):
        block = values[start : start + rows]
        keys = [f"{start + row}.jpg" for row in range(len(block))]
        partitions.write(str(folder), [embeddings.Embeddings(keys, block)], PROBE)
    return str(folder)


@pytest.fixture(scope="module")
def values():
    return clustered(3000)


@pytest.fixture(scope="module")
def built(tmp_path_factory, values):
    """A folder with its index; tests copy what they change."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partitions, "LARGE", 1000)
        path = write(tmp_path_factory.mktemp("built") / "x.parquet", values)
        told = index.update(path)
    return path, told


@pytest.fixture
def copied(built, tmp_path):
    shutil.copytree(built[0], tmp_path / "x.parquet")
    shutil.copy(f"{built[0]}.faiss", tmp_path / "x.parquet.faiss")
    return str(tmp_path / "x.parquet")


def true_neighbours(values, queries, k):
    similarity = unit64(queries) @ unit64(values).T
    order = np.argsort(-similarity, axis=1)[:, :k]
    return np.take_along_axis(similarity, order, axis=1), order


def test_recall_is_that_of_numpy_and_similarities_are_exact(built, values):
    path, told = built
    searched = index.open_or_build(path)
    assert "approximately (recall 0.9" in searched.how or "recall 1.000" in searched.how
    queries = clustered(200, seed=1)
    similarities, rows = searched.nearest(queries, 10)
    expected, order = true_neighbours(values, queries, 10)
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(rows, order, strict=True)])
    header = ivf_file.Lists(f"{path}.faiss").header
    assert recall >= 0.93 and header.recall >= 0.95 and abs(recall - header.recall) < 0.05
    assert f"finds {header.recall:.1%} of the 10 nearest" in told
    assert header.probes < header.lists
    exact = np.take_along_axis(unit64(queries) @ unit64(values).T, rows, axis=1)
    np.testing.assert_allclose(similarities, exact, atol=1e-6)
    assert (np.diff(similarities, axis=1) <= 0).all()


def test_the_recall_in_the_header_is_of_the_settings_in_it(built, values):
    path, _ = built
    corpus = Corpus(path)
    found = approximate.open_index(corpus)
    rows = np.arange(0, 3000, 10)
    _, mine = found.nearest(values[rows], 11)
    _, order = true_neighbours(values, values[rows], 11)
    recall = np.mean([len(set(a) & set(b[1:])) / 10 for a, b in zip(mine, order, strict=True)])
    assert recall == pytest.approx(found.header.recall, abs=0.03)


def test_embeddings_without_structure_are_told_of(tmp_path, monkeypatch):
    monkeypatch.setattr(approximate, "_CANDIDATES", (5,))
    values = np.random.default_rng(0).normal(size=(1500, 64)).astype(np.float32)
    told = index.update(write(tmp_path / "x.parquet", values))
    assert "less than 95%" in told and "Remove it to search exactly" in told


def test_without_an_index_the_search_is_exact(tmp_path, capsys, values):
    path = write(tmp_path / "x.parquet", values)
    searched = index.open_or_build(path)
    assert "compared with every embedding" in capsys.readouterr().err
    assert searched.how == "exactly" and len(searched) == 3000
    queries = clustered(5, seed=2)
    similarities, rows = searched.nearest(queries, 7)
    expected, order = true_neighbours(values, queries, 7)
    np.testing.assert_array_equal(rows, order)
    np.testing.assert_allclose(similarities, expected, atol=1e-6)
    assert [searched.key(row) for row in (0, 699, 700, 2999)] == [
        "0.jpg", "699.jpg", "700.jpg", "2999.jpg",
    ]  # fmt: skip
    assert searched.rows(["700.jpg", "none"]) == {"700.jpg": 700}
    np.testing.assert_allclose(searched.unit(1400), unit64(values)[1400], atol=1e-6)
    assert "searched exactly" in index.update(write(tmp_path / "y.parquet", values[:900]))
    assert not (tmp_path / "y.parquet.faiss").exists()


def test_a_scan_in_blocks_of_any_size_is_exact():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(50, 6)).astype(np.float32) * np.float32([[1e-30], [1e30]] * 25)
    blocks = [(0, values[:1]), (1, values[1:4]), (4, values[4:])]
    _, rows = scan.nearest(blocks, values[:9], 5)
    np.testing.assert_array_equal(rows, true_neighbours(values, values[:9], 5)[1])


def _sign(path, content):
    """Writes an index with a right SHA-256: the worst case of a forged file."""
    pathlib.Path(path).write_bytes(content + hashlib.sha256(content).digest())


def _changed(**numbers):
    def damage(path, content):
        header = ivf_file.Lists(path).header
        length = len(header.pack())
        _sign(path, dataclasses.replace(header, **numbers).pack() + content[length:-32])

    return damage


def _sizes(change):
    def damage(path, content):
        header = ivf_file.Lists(path).header
        shapes = header.shapes()
        start = len(header.pack()) + sum(
            4 * int(np.prod(shapes[name][1])) for name in ("rotation", "centroids", "quantizers")
        )
        sizes = np.frombuffer(content, "<i8", header.lists, start).copy()
        change(sizes)
        _sign(path, content[:start] + sizes.tobytes() + content[start + 8 * header.lists : -32])

    return damage


def _exchange(sizes):
    sizes[0], sizes[1] = -(1 << 62), sizes[0] + sizes[1] + (1 << 62)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path, content: os.truncate(path, 0), "too short"),
        (lambda path, content: os.truncate(path, len(content) - 8), "size is not"),
        (lambda path, content: _sign(path, b"IwPQ" + content[4:-32]), "of no index"),
        (lambda path, content: pathlib.Path(path).write_bytes(
            content[:-99] + bytes([content[-99] ^ 1]) + content[-98:]), "damaged"),
        (_changed(lists=1 << 39), "claims more"),
        (_changed(lists=-1), "of no index"),
        (_changed(size=1 << 39), "claims more"),
        (_changed(count=1 << 39), "as many codes"),
        (_changed(codes=7), "of no index"),
        (_changed(probes=1 << 30), "of no index"),
        (_changed(recall=float("nan")), "of no index"),
        (_changed(digest="00" * 32), "of other embeddings"),
        (_sizes(_exchange), "as many codes"),
        (_sizes(lambda sizes: sizes.__setitem__(0, sizes[0] + 1)), "as many codes"),
    ],
)  # fmt: skip
def test_a_damaged_or_forged_index_is_not_used(copied, capsys, values, damage, reason):
    path = f"{copied}.faiss"
    damage(path, pathlib.Path(path).read_bytes())
    searched = index.open_or_build(copied)
    error = capsys.readouterr().err
    assert "x.parquet.faiss' is not used" in error and reason in error
    assert searched.how == "exactly"
    assert searched.nearest(values[5:6], 1)[1].tolist() == [[5]]
    index.update(copied)
    assert "approximately" in index.open_or_build(copied).how


def test_rows_of_a_forged_index_that_do_not_exist_are_left_out(copied, values):
    path = pathlib.Path(f"{copied}.faiss")
    content = path.read_bytes()[:-32]
    tail = np.frombuffer(content, "<i8", 64, len(content) - 512).copy()
    tail[(tail >= 0) & (tail < 3000)] = 1 << 60
    _sign(path, content[:-512] + tail.tobytes())
    _, rows = index.open_or_build(copied).nearest(values[:300], 50)
    assert rows.max() < 3000 and rows.min() >= -1


def test_an_index_is_of_its_partitions_only(copied, capsys, values):
    last = partitions.paths(copied)[-1]
    os.remove(last)
    keys = [f"{row}.jpg" for row in range(2800, 3000)]
    new = embeddings.Embeddings(keys, values[2800:][::-1])
    partitions.write(copied, [new], PROBE)
    assert partitions.paths(copied)[-1] == last  # The same name, size and keys.
    assert index.open_or_build(copied).how == "exactly"
    assert "of other embeddings" in capsys.readouterr().err


def test_partitions_in_another_layout_are_a_sentence(tmp_path, values):
    path = write(tmp_path / "x.parquet", values)
    (first, *_) = partitions.paths(path)
    table = pq.read_table(first)
    for options in ({}, {"compression": "none"}, {"use_dictionary": False}):
        pq.write_table(table, first, **options)
        with pytest.raises(UserError, match=r"part-00000.parquet' does not .* laid out as"):
            Corpus(path)
    # Several pages: only reading them tells.
    pq.write_table(table, first, compression="none", use_dictionary=False, data_page_size=4096)
    with pytest.raises(UserError, match=r"laid out as|NaN"):
        index.update(path)
    os.truncate(first, 1000)
    with pytest.raises(UserError, match=r"part-00000.parquet' does not hold embeddings"):
        Corpus(path)


def test_an_embedding_with_nan_is_a_sentence(tmp_path, values):
    damaged = values.copy()
    damaged[1234, 5] = np.nan
    path = write(tmp_path / "x.parquet", damaged)
    with pytest.raises(UserError, match="NaN"):
        index.update(path)
    assert os.listdir(tmp_path) == ["x.parquet"]


def test_all_pairs_of_a_large_corpus_are_refused_with_the_cost(built):
    searched = index.open_or_build(built[0])
    flags.FLAGS.mark_as_parsed()
    with pytest.raises(UserError, match=r"all pairs of 3,000 images, .* 0.0 hours"):
        neighbors._show_duplicates(searched, None)
    assert duplicates.seconds(50_000, 128) == pytest.approx(14)


class _Killed(BaseException):
    pass


def test_killed_while_it_is_built_the_index_stays_the_old_one(copied, monkeypatch):
    before = pathlib.Path(f"{copied}.faiss").read_bytes()
    partitions.write(copied, [embeddings.Embeddings(["new"], clustered(1))], PROBE)
    for name in ("write", "set_header", "sign"):

        def killed(*_):
            raise _Killed

        with monkeypatch.context() as patch, pytest.raises(_Killed):
            patch.setattr(ivf_file, name, killed)
            index.update(copied)
        assert pathlib.Path(f"{copied}.faiss").read_bytes() == before
        assert sorted(os.listdir(os.path.dirname(copied))) == ["x.parquet", "x.parquet.faiss"]
