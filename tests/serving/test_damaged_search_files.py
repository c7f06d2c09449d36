"""Damaged, foreign and forged files of embeddings: a sentence each, and no wrong neighbour."""

import hashlib
import json
import os
import pathlib
import pickle
import shutil

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serving.errors import UserError
from serving.search import embeddings, index, parquet_file


def some(seed=0, rows=6, size=8):
    values = np.random.default_rng(seed).normal(size=(rows, size)).astype(np.float32)
    return embeddings.Embeddings([f"{row}.jpg" for row in range(rows)], values)


def write(path, found):
    embeddings.write(str(path), [found], len(found.keys), {})
    return str(path)


FLOATS = pa.list_(pa.float32())


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"key": ["a", "b"], "embedding": pa.array([[1, 2], [3, None]], FLOATS)}, "number .null"),
        ({"key": ["a", "b"], "embedding": pa.array([[1, 2], None], FLOATS)}, "cell .null"),
        ({"key": ["a", None], "embedding": pa.array([[1], [2]], FLOATS)}, "without a key"),
        ({"key": ["a", "b"], "embedding": pa.array([[1, 2], [3]], FLOATS)}, "of 2 and of 1"),
        ({"key": ["a", "b"], "embedding": pa.array([[1], [2, 3, 4]], FLOATS)}, "of 1 and of 3"),
        ({"key": ["a"], "embedding": pa.array([[]], FLOATS)}, "without numbers"),
        ({"key": ["a"], "embedding": pa.array([[np.nan]], FLOATS)}, "NaN or infinity"),
        ({"key": ["a"], "embedding": pa.array([[1e300]])}, "NaN or infinity"),
        ({"key": pa.array([], pa.string()), "embedding": pa.array([], FLOATS)}, "no rows"),
        ({"key": [1], "embedding": pa.array([[1]], FLOATS)}, "'key' has int64, not text"),
        ({"key": ["a"], "embedding": [["x"]]}, "not lists of floats"),
        ({"key": ["a"], "embedding": [1.0]}, "'embedding' has double, not lists"),
        ({"key": ["a"]}, "no column 'embedding'"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_a_damaged_parquet_file_is_a_sentence(tmp_path, columns, sentence):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table(columns), path)
    with pytest.raises(UserError, match=f"x.parquet' does not hold embeddings .*{sentence}"):
        embeddings.read(str(path))


def test_rows_of_two_lengths_in_two_batches_are_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_file, "_ROWS_AT_ONCE", 2)
    columns = {"key": list("abcd"), "embedding": pa.array([[1, 2], [3, 4], [5], [6]], FLOATS)}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(UserError, match="of 2 and of 1 numbers"):
        embeddings.read(str(tmp_path / "x.parquet"))


@pytest.mark.parametrize("cut", [0, 4, 100, -9])
def test_a_cut_file_is_a_sentence(tmp_path, cut):
    for name in ("x.parquet", "x.npy"):
        path = write(tmp_path / name, some())
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[:cut])
        with pytest.raises(UserError, match="does not hold embeddings"):
            embeddings.read(path)


def test_a_small_file_that_unpacks_to_far_more_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_file, "_ALWAYS_ALLOWED", 16 << 20)
    path = tmp_path / "x.parquet"
    row = pa.array([[0.5] * 4096], FLOATS)
    column = pa.chunked_array([pa.concat_arrays([row] * 1024)] * 2)
    keys = pa.array([""] * len(column))
    pq.write_table(pa.table({"key": keys, "embedding": column}), path)
    assert path.stat().st_size < 1 << 17
    with pytest.raises(UserError, match="far more than a file of its size holds"):
        embeddings.read(str(path))


def test_keys_that_unpack_to_far_more_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_file, "_ALWAYS_ALLOWED", 1 << 16)
    keys = pa.array(["k" * 1000] * 10000).dictionary_encode().cast(pa.string())
    columns = {"key": keys, "embedding": pa.array([[1.0]] * 10000, FLOATS)}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet", compression="gzip")
    with pytest.raises(UserError, match="keys unpack to far more"):
        embeddings.read(str(tmp_path / "x.parquet"))


class _Code:
    def __reduce__(self):
        return print, ("this ran",)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (np.array([_Code()] * 6), "Python objects"),
        (np.ones([6, 2], np.int64), "it has int64, not floats"),
        (np.array([["a"]] * 6), "not floats"),
        (np.ones([6, 2, 2], np.float32), r"shape \[6, 2, 2\]"),
        (np.ones([5, 2], np.float32), "5 rows for 6 keys"),
        (np.ones([7, 2], np.float32), "7 rows for 6 keys"),
        (np.ones([0, 2], np.float32), "does not hold embeddings"),
        (np.ones([6, 8], np.float32), "not the file that .*x.keys.json' belongs to"),
    ],
)
def test_a_damaged_npy_file_is_a_sentence(tmp_path, capsys, values, sentence):
    path = write(tmp_path / "x.npy", some())
    np.save(path, values)
    with pytest.raises(UserError, match=sentence):
        embeddings.read(path)
    assert "this ran" not in capsys.readouterr().out


def _header(shape: str) -> bytes:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    "content",
    [
        _header("(4611686018427387904, 8)"),
        _header("(-1, 8)"),
        _header("(6, 999999999)"),
        _header("(" * 90),
        pickle.dumps(_Code()),
        b"PK\x03\x04",
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_a_forged_npy_header_is_a_sentence(tmp_path, capsys, content):
    path = write(tmp_path / "x.npy", some())
    (tmp_path / "x.npy").write_bytes(content + bytes(64))
    with pytest.raises(UserError, match="x.npy' does not hold embeddings"):
        embeddings.read(path)
    assert "this ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"keys": 3}', '{"keys": [1]}', '{"keys": ["\\ud800"]}', "[" * 100_000,
     '{"keys": ["a"], "root": 3}', '{"keys": ["a"], "model": "m"}',
     '{"keys": ["a"], "probe": ["x"]}', '{"keys": ["a"], "size_and_mtime_ns": [[1]]}'],
)  # fmt: skip
def test_damaged_keys_are_a_sentence(tmp_path, content):
    path = write(tmp_path / "x.npy", some(rows=1))
    (tmp_path / "x.keys.json").write_text(content)
    with pytest.raises(UserError, match=r"x.npy' (does not hold|has JSON nested)"):
        embeddings.read(path)


def test_a_folder_instead_of_a_file_is_a_sentence(tmp_path):
    (tmp_path / "x.parquet").mkdir()
    with pytest.raises(UserError, match="does not hold embeddings"):
        embeddings.read(str(tmp_path / "x.parquet"))


def _saved(tmp_path, found, name="x.parquet"):
    path = write(tmp_path / name, found)
    index.update(path)
    return path


def _l2(path, found):
    flat = faiss.IndexFlatL2(8)
    flat.add(found.values)
    faiss.write_index(flat, path)
    _sign(path)


def _other_size(path, found):
    flat = faiss.IndexFlatIP(4)
    flat.add(np.ascontiguousarray(found.values[:, :4]))
    faiss.write_index(flat, path)
    _sign(path)


def _sign(path):
    """Adds what `save` adds to an index of these embeddings: the worst case of a forged file."""
    digest = embeddings.file_digest(path.removesuffix(".faiss"))
    content = pathlib.Path(path).read_bytes() + bytes.fromhex(digest)
    pathlib.Path(path).write_bytes(content + hashlib.sha256(content).digest())


def _claims_many(path, found):
    with open(path, "rb+") as file:
        file.seek(37)
        file.write((1 << 60).to_bytes(8, "little"))


def _flipped(path, found):
    with open(path, "rb+") as file:
        file.seek(-100, 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))


def _of_another_file(path, found):
    folder = path + ".other"
    os.mkdir(folder)
    other = write(f"{folder}/x.parquet", some(seed=1))
    index.update(other)
    shutil.copy(other + ".faiss", path)


@pytest.mark.parametrize(
    "damage",
    [_l2, _other_size, _claims_many, _flipped, _of_another_file,
     lambda path, _: os.truncate(path, 0), lambda path, _: os.truncate(path, 1 << 20)],
    ids=["l2", "other_size", "claims_many", "flipped", "of_another_file", "empty", "longer"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["x.parquet", "x.npy"])
def test_a_damaged_or_foreign_index_is_built_again_with_a_notice(tmp_path, capsys, name, damage):
    found = some()
    path = _saved(tmp_path, found, name)
    good = (tmp_path / f"{name}.faiss").read_bytes()
    damage(f"{path}.faiss", found)
    assert (tmp_path / f"{name}.faiss").read_bytes() != good
    similarities, rows = index.open_or_build(path).nearest(found.values, 1)
    assert rows[:, 0].tolist() == list(range(6))
    np.testing.assert_allclose(similarities, 1, atol=1e-6)
    assert "x.parquet.faiss" in (error := capsys.readouterr().err) or "x.npy.faiss" in error
    assert "built again" in error
    assert (tmp_path / f"{name}.faiss").read_bytes() == good


@pytest.mark.parametrize("name", ["x.parquet", "x.npy"])
def test_an_index_serves_its_embeddings_only(tmp_path, capsys, monkeypatch, name):
    old, new = some(), some(seed=1)
    path = _saved(tmp_path, old, name)
    write(path, new)  # Of the same size and keys, and maybe in the same second.
    assert index.open_or_build(path).nearest(new.values, 1)[1][:, 0].tolist() == list(range(6))
    assert "built again" in capsys.readouterr().err
    monkeypatch.setattr(embeddings, "read", None)  # Now the index serves, without a notice.
    opened = index.open_or_build(path)
    assert opened.nearest(new.values, 1)[1][:, 0].tolist() == list(range(6))
    assert opened.keys == new.keys and capsys.readouterr().err == ""
    index.update(path)


def test_vectors_of_any_length_have_their_direction(tmp_path):
    values = some().values
    scales = np.float32([1e-30, 1e30, 1, 1e-20, 1e20, 5])[:, None]
    found = index.build(embeddings.Embeddings(some().keys, values * scales))
    similarities, rows = found.nearest(values * scales[::-1], 1)
    assert rows[:, 0].tolist() == list(range(6))
    np.testing.assert_allclose(similarities, 1, atol=1e-6)


def test_npy_keys_of_an_earlier_version_are_read(tmp_path):
    path = write(tmp_path / "x.npy", some())
    keys = json.loads((tmp_path / "x.keys.json").read_text())["keys"]
    (tmp_path / "x.keys.json").write_text(json.dumps({"keys": keys}))
    found = embeddings.read(path)
    assert found.keys == keys and (found.stats == -1).all()
