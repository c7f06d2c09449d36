"""byol-embed and byol-neighbors as commands, on real images, with an endpoint and a SavedModel."""

import base64
import io
import json
import os
import pathlib
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.parse

import messy_folder
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from PIL import Image
from serve import ROOT

from byol_tf.sources import unread, walk
from serving.errors import UserError
from serving.search import embeddings, identity, image_files, index, parquet_file
from serving.search.parts import Parts
from serving.search.pictures import Pictures
from serving.search.saved_model import SavedModelTransport


def call(command, *arguments, cwd, status=0):
    """Runs a command; returns its output, or the last line of its errors if `status` is not 0."""
    result = subprocess.run(
        [sys.executable, "-m", f"serving.search.{command}", *map(str, arguments)],
        cwd=cwd, capture_output=True, text=True, timeout=300,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert "Traceback" not in result.stderr, result.stderr
    assert result.returncode == status, result.stderr
    return result.stdout if status == 0 else result.stderr.strip().splitlines()[-1]


@pytest.fixture
def photos(images_dir, tmp_path):
    """Folders with 40 image files; one is broken, one has spaces, quotes and an umlaut."""
    for file in sorted((images_dir / "test").glob("*/000[0-3].jpg")):
        target = tmp_path / "photos" / file.parent.name / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    (tmp_path / "photos" / "cat" / "0000.jpg").rename(
        tmp_path / "photos" / "cat" / 'über "all" <b>.jpg'
    )
    (tmp_path / "photos" / "ship" / "0001.jpg").write_bytes(b"no image")
    (tmp_path / "photos" / "notes.txt").write_text("not an image, by its suffix")
    return tmp_path


def by_the_model(encoder_dir, root, keys):
    contents = tf.constant([(root / key).read_bytes() for key in keys])
    model = tf.saved_model.load(str(encoder_dir / "1"))
    return model.signatures["serving_default"](image_bytes=contents)["embedding"].numpy()


def test_an_endpoint_and_a_saved_model_fill_the_same_file(server, encoder_dir, photos):
    told = {}
    for name, source in (
        ("grpc.parquet", f"--address={server.address}"),
        ("rest.npy", f"--address={server.url}"),
        ("model.parquet", f"--saved_model={encoder_dir}/1"),
    ):
        told[name] = call(
            "embed", source, f"--output={name}", "--batch_size=8", "photos", cwd=photos
        )
    for name, text in told.items():
        assert f"{name}: 39 embeddings, 39 of them new." in text
        assert re.search(
            r"could not be embedded \(1\):\n  photos/ship/0001.jpg: model .* JPEG, PNG, GIF, BMP",
            text,
        )
        found = embeddings.read(str(photos / name))
        assert found.keys == sorted(found.keys) and len(found.keys) == 39
        assert (
            'photos/cat/über "all" <b>.jpg' in found.keys
            and "photos/ship/0001.jpg" not in found.keys
        )
        np.testing.assert_allclose(
            found.values, by_the_model(encoder_dir, photos, found.keys), rtol=0, atol=1e-5
        )
        assert not list(photos.glob("*.parts")) and not list(photos.glob("*.tmp*"))
    about = embeddings.read(str(photos / "model.parquet")).about
    assert re.fullmatch("[0-9a-f]{16}", about["model"]["SavedModel"]) and about["root"] == str(
        photos
    )
    table = pq.read_table(photos / "grpc.parquet")
    assert (
        table.column_names == ["key", "embedding", "size", "mtime_ns"]
        and len(table["embedding"][0]) == 128
    )
    assert np.load(photos / "rest.npy").shape == (39, 128)
    assert json.loads((photos / "rest.keys.json").read_text())["model"] == {
        "model": "byol",
        "version": 1,
    }
    for name, source in (  # Each goes on with what the others wrote.
        ("grpc.parquet", f"--saved_model={encoder_dir}"),
        ("model.parquet", f"--address={server.address}"),
    ):
        before = embeddings.read(str(photos / name))
        shutil.copy(photos / "photos" / "dog" / "0001.jpg", photos / "photos" / "new.jpg")
        text = call("embed", source, f"--output={name}", "photos", cwd=photos)
        assert f"{name}: 40 embeddings, 1 of them new." in text
        after = embeddings.read(str(photos / name))
        assert after.keys == [*before.keys, "photos/new.jpg"]
        np.testing.assert_array_equal(after.values[:39], before.values)
        (photos / "photos" / "new.jpg").unlink()


def test_called_again_it_embeds_only_what_is_new(server, photos):
    arguments = (f"--address={server.address}", "--output=out.npy", "photos/**/*.jpg")
    call("embed", *arguments, cwd=photos)
    before = embeddings.read(str(photos / "out.npy"))
    values = np.array(before.values)
    shutil.copy(photos / "photos" / "dog" / "0000.jpg", photos / "photos" / "aaa.jpg")
    assert "out.npy: 40 embeddings, 1 of them new." in call("embed", *arguments, cwd=photos)
    after = embeddings.read(str(photos / "out.npy"))
    assert after.keys == [*before.keys, "photos/aaa.jpg"]
    np.testing.assert_array_equal(after.values[:39], values)
    assert "out.npy: 40 embeddings, 0 of them new." in call("embed", *arguments, cwd=photos)
    # As after a kill between writing the output and removing its parts.
    parts = Parts(str(photos / "out.npy"), after.about)
    parts.add(after.keys[30:], after.values[30:], after.stats[30:])
    assert "out.npy: 40 embeddings, 0 of them new." in call("embed", *arguments, cwd=photos)
    assert embeddings.read(str(photos / "out.npy")).keys == after.keys
    assert not list(photos.glob("*.parts"))


def test_changed_images_are_embedded_again_and_deleted_ones_dropped(encoder_dir, server, photos):
    arguments = (f"--address={server.address}", "--output=out.parquet", "photos")
    call("embed", *arguments, "--index", cwd=photos)
    before = embeddings.read(str(photos / "out.parquet"))
    changed, gone, broken = "photos/cat/0001.jpg", "photos/dog/0000.jpg", "photos/cat/0002.jpg"
    stat = (photos / changed).stat()
    Image.open(photos / "photos/frog/0001.jpg").rotate(90).save(photos / changed, quality=90)
    os.utime(photos / changed, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # Only its size tells.
    (photos / gone).unlink()
    (photos / broken).write_bytes(b"no image any more")
    text = call("embed", *arguments, cwd=photos)
    assert "out.parquet: 38 embeddings, 0 of them new, 1 of changed images." in text
    assert "1 of its images do not exist any more; --prune drops them." in text
    text = call("embed", *arguments, "--prune", cwd=photos)
    assert "37 embeddings, 0 of them new, 1 of deleted images dropped." in text
    after = embeddings.read(str(photos / "out.parquet"))
    assert set(after.keys) == set(before.keys) - {gone, broken}
    np.testing.assert_allclose(
        after.values, by_the_model(encoder_dir, photos, after.keys), rtol=0, atol=1e-5
    )
    # The index followed, although nobody asked again.
    opened = index.open_or_build(str(photos / "out.parquet"))
    assert opened.keys == after.keys and opened.digest == after.digest
    assert "37 embeddings, 0 of them new." in call("embed", *arguments, cwd=photos)


def test_keys_start_from_one_folder(server, photos):
    call("embed", f"--address={server.address}", "--output=out.npy", "photos/cat", cwd=photos)
    arguments = (f"--address={server.address}", "--output=../out.npy", "dog")
    line = call("embed", *arguments, cwd=photos / "photos", status=1)
    assert f"start from the folder '{photos}'; run byol-embed there" in line


def test_a_model_is_known_by_what_it_answers():
    def about(probe, **model):
        return {"model": model, "probe": probe}

    rng = np.random.default_rng(0)
    values = rng.normal(size=128)
    near = (values + rng.normal(size=128) * 1e-3).tolist()
    far = (values + rng.normal(size=128) * 1e-1).tolist()
    before = about(values.tolist(), model="byol", version=1)
    identity.check_same_model(before, about(near, SavedModel="0123"), "x.npy")
    for other in (far, near[:64]):
        with pytest.raises(UserError, match="embeds the same image in another way: they cannot"):
            identity.check_same_model(before, about(other, model="byol", version=1), "x.npy")
    identity.check_same_model({}, about(near, model="byol"), "x.npy")


@pytest.mark.slow
def test_killed_on_the_way_the_same_command_goes_on(server, images_dir, tmp_path):
    command = [
        sys.executable,
        "-m",
        "serving.search.embed",
        f"--address={server.address}",
        "--batch_size=4",
    ]
    command += [f"--output={tmp_path}/out.parquet", f"{images_dir}/train"]
    parts, done = tmp_path / "out.parquet.parts", 0
    for _ in range(2):
        process = subprocess.Popen(
            command, stderr=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": str(ROOT)}
        )
        while process.poll() is None and len(list(parts.glob("*.parquet"))) <= done:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        done = len(list(parts.glob("*.parquet")))
        assert done and not (tmp_path / "out.parquet").exists()
    text = call("embed", *command[3:], cwd=tmp_path)
    new = int(re.search(r"2500 embeddings, (\d+) of them new", text).group(1))
    assert new <= 2500 - 2 * 1024
    found = embeddings.read(str(tmp_path / "out.parquet"))
    assert len(set(found.keys)) == 2500 and np.isfinite(found.values).all()
    assert not parts.exists()


def test_embeddings_of_two_models_are_not_mixed(server, photos):
    one = embeddings.Embeddings(["photos/cat/0001.jpg"], np.ones([1, 128], np.float32))
    about = {"model": {"SavedModel": "0123456789abcdef"}}
    embeddings.write(str(photos / "out.parquet"), [one], 1, about)
    address = f"--address={server.address}"
    line = call("embed", address, "--output=out.parquet", "photos", cwd=photos, status=1)
    assert line.startswith(
        "error: 'out.parquet' holds embeddings of SavedModel 0123456789abcdef, and this is model "
        "byol, version 1: they cannot be mixed."
    )
    line = call("neighbors", address, "--embeddings=out.parquet", "photos/dog/0000.jpg",
                cwd=photos, status=1)  # fmt: skip
    assert "cannot be mixed" in line


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("photos",), "output"),
        (("--output=x.csv", "--address=127.0.0.1:1", "photos"), "end it in .parquet or .npy"),
        (("--output=x.npy", "photos"), "either --address of an endpoint or --saved_model"),
        (("--output=x.npy", "--address=127.0.0.1:1"), "nothing to embed"),
        (("--output=x.npy", "--address=127.0.0.1:1", "nowhere"), "'nowhere' names no image"),
        (("--output=x.npy", "--address=127.0.0.1:1", "photos/*.xyz"), "names no image"),
        (
            ("--output=x.npy", "--address=127.0.0.1:1", "--timeout=0.5", "photos"),
            "(UNAVAILABLE); is the endpoint up",
        ),
        (("--output=x.npy", "--saved_model=photos", "photos"), "holds no saved_model.pb"),
        (("--output=none/x.npy", "--address={}", "photos"), "cannot write"),
        (
            ("--output=x.npy", "--address={}", "photos/ship/0001.jpg"),
            "none of the 1 images could be embedded",
        ),
        (("--output=x.npy", "--address={}", "--model_name=none", "photos"), "Servable not found"),
        (
            ("--output=x.npy", "--address={}", "--model_version=1", "--model_label=a", "photos"),
            "give one",
        ),
    ],
)
def test_mistakes_are_a_sentence_and_leave_nothing(server, photos, arguments, sentence):
    arguments = [argument.format(server.address) for argument in arguments]
    if "none/" in arguments[0]:
        (photos / "none").write_text("a file, not a folder")
    assert sentence in call("embed", *arguments, cwd=photos, status=1)
    assert sorted(path.name for path in photos.iterdir() if path.name != "none") == ["photos"]


def test_neighbours_are_those_of_numpy_and_the_page_shows_them(server, photos):
    address = f"--address={server.address}"
    call("embed", address, "--output=out.parquet", "--index", "photos", cwd=photos)
    assert (photos / "out.parquet.faiss").exists()
    shutil.copy(photos / "photos" / "dog" / "0002.jpg", photos / "query.jpg")
    queries = ['photos/cat/über "all" <b>.jpg', "query.jpg"]
    text = call(
        "neighbors",
        address,
        "--embeddings=out.parquet",
        "--k=5",
        "--images_dir=photos",
        "--output=page.html",
        *queries,
        cwd=photos,
    )

    found = embeddings.read(str(photos / "out.parquet"))
    unit = found.values / np.linalg.norm(found.values, axis=1, keepdims=True)
    rows = [found.keys.index(queries[0]), found.keys.index("photos/dog/0002.jpg")]
    blocks = re.split(r"^(?=\S)", text, flags=re.MULTILINE)[1:3]
    for block, row, exclude in zip(blocks, rows, (True, False), strict=True):
        similarity = unit @ unit[row]
        best = [i for i in np.argsort(-similarity) if not (exclude and i == row)][:5]
        lines = [line.split(maxsplit=1) for line in block.strip().splitlines()[1:]]
        assert [key for _, key in lines] == [found.keys[i] for i in best]
        np.testing.assert_allclose(
            [float(score) for score, _ in lines], similarity[best], atol=6e-4
        )

    page = (photos / "page.html").read_text()
    assert page.count("<section>") == 2 and page.count("<img ") == 12 and "not shown" not in page
    for link in re.findall(r'<a href="([^"]+)"', page):
        Image.open(photos / urllib.parse.unquote(link)).verify()
    assert "&lt;b&gt;" in page and "<b>.jpg" not in page
    for source in re.findall(r'src="data:image/(?:png|jpeg);base64,([^"]+)"', page)[:3]:
        Image.open(io.BytesIO(base64.b64decode(source))).verify()


def test_a_query_by_key_needs_no_model(server, photos):
    call("embed", f"--address={server.address}", "--output=out.npy", "photos", cwd=photos)
    text = call("neighbors", "--embeddings=out.npy", "--k=2", "photos/dog/0000.jpg", cwd=photos)
    assert len(text.strip().splitlines()) == 4
    assert text.endswith("\nSearched 39 images of out.npy exactly.\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--embeddings=none.parquet", "q.jpg"), "the file 'none.parquet' does not exist"),
        (("--embeddings=photos/notes.txt", "q.jpg"), "end it in .parquet or .npy"),
        (("--embeddings=bad.parquet", "q.jpg"), "does not hold embeddings"),
        (("--embeddings=one.npy", "q.jpg"), "'q.jpg' is neither a file nor a key"),
        (
            ("--embeddings=one.npy", "photos/notes.txt"),
            "either --address of an endpoint or --saved_model",
        ),
        (("--embeddings=one.npy",), "there is no query"),
    ],
)
def test_mistakes_of_a_search_are_a_sentence(photos, arguments, sentence):
    (photos / "bad.parquet").write_bytes(b"PAR1 and then nothing")
    one = embeddings.Embeddings(["a"], np.ones([1, 3], np.float32))
    embeddings.write(str(photos / "one.npy"), [one], 1, {})
    assert sentence in call("neighbors", *arguments, cwd=photos, status=1)


@pytest.mark.parametrize("suffix", ["parquet", "npy"])
def test_files_keep_every_bit(tmp_path, suffix):
    rng = np.random.default_rng(0)
    parts = [
        embeddings.Embeddings(
            [f"{part}/{row}\n" for row in range(rows)],
            rng.normal(size=(rows, 7)).astype(np.float32),
        )
        for part, rows in enumerate((3, 1, 200))
    ]
    path = str(tmp_path / f"x.{suffix}")
    embeddings.write(path, parts, 204, {"model": {"a": 1}, "root": "/r"})
    found = embeddings.read(path)
    assert (
        found.keys == [key for part in parts for key in part.keys] and found.about["root"] == "/r"
    )
    np.testing.assert_array_equal(found.values, np.concatenate([part.values for part in parts]))


def test_a_parquet_file_of_several_row_groups_is_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_file, "_ROWS_AT_ONCE", 7)
    values = np.arange(100, dtype=np.float32).reshape(50, 2)
    path = str(tmp_path / "x.parquet")
    embeddings.write(path, [embeddings.Embeddings([str(row) for row in range(50)], values)], 50, {})
    assert pq.ParquetFile(path).num_row_groups == 8
    np.testing.assert_array_equal(embeddings.read(path).values, values)


def test_search_is_exact():
    rng = np.random.default_rng(0)
    values, queries = rng.normal(size=(5000, 16)), rng.normal(size=(20, 16))
    found = index.build(embeddings.Embeddings([""] * 5000, values.astype(np.float32)))
    similarities, rows = found.nearest(queries, 10)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (values, queries)]
    expected = unit[1] @ unit[0].T
    np.testing.assert_array_equal(rows, np.argsort(-expected, axis=1)[:, :10])
    np.testing.assert_allclose(similarities, -np.sort(-expected, axis=1)[:, :10], atol=1e-6)


def test_files_that_the_command_line_names(tmp_path):
    for name in ("a/1.jpg", "a/2.PNG", "a/3.txt", "b/deep/4.jpeg", "5.gif"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    root = str(tmp_path)

    def found(*arguments):
        return [
            os.path.relpath(path, root)
            for path in image_files.find(os.path.join(root, a) for a in arguments)
        ]

    assert found("") == ["5.gif", "a/1.jpg", "a/2.PNG", "b/deep/4.jpeg"]
    assert found("b", "a/3.txt", "b/deep/4.jpeg") == ["b/deep/4.jpeg", "a/3.txt"]
    assert found("*/*.jpg", "**/*.jpeg") == ["a/1.jpg", "b/deep/4.jpeg"]
    with pytest.raises(UserError, match="names no image"):
        found("a", "c")


@pytest.fixture
def tangled(tmp_path):
    """A folder of images with circular links, another link, hidden files and hidden folders."""
    folder = tmp_path / "tangled"
    outside = tmp_path / "outside"
    for path in (
        folder / "a" / "1.jpg",
        folder / "a" / ".hidden.jpg",
        folder / "b" / "deep" / "2.png",
        folder / ".cache" / "3.jpg",
        folder / "b" / ".thumbnails" / "4.jpg",
        folder / "5.jpg",
        outside / "6.jpg",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    (folder / "a" / "up").symlink_to(folder, target_is_directory=True)
    (folder / "b" / "deep" / "self").symlink_to(folder / "b" / "deep", target_is_directory=True)
    (folder / "linked").symlink_to(outside, target_is_directory=True)
    (outside / "back").symlink_to(folder, target_is_directory=True)
    (folder / "7.jpg").symlink_to(folder / "5.jpg")
    return folder


def test_a_folder_has_the_files_that_training_finds_in_it(tangled):
    expected = sorted(str(tangled / path) for path, _ in walk.files_below(str(tangled)))
    assert {"5.jpg", "7.jpg", "a/1.jpg", "b/deep/2.png", "linked/6.jpg"} <= {
        os.path.relpath(path, tangled) for path in expected
    }
    assert len(expected) == len(set(map(os.path.basename, expected)))  # Each image once.
    assert image_files.find([str(tangled)]) == expected
    assert image_files.find([f"{tangled}/"]) == expected


def test_a_pattern_follows_no_circular_link(tangled):
    found = image_files.find([f"{tangled}/**/*.*"])
    assert sorted(map(os.path.basename, found)) == ["1.jpg", "2.png", "5.jpg", "6.jpg", "7.jpg"]
    assert image_files.find([f"{tangled}/**"]) == found


def test_what_training_leaves_out_is_left_out_and_told_alike(tmp_path, caplog):
    folder = tmp_path / "messy"
    facts = messy_folder.tangle(folder)
    record = unread.Unread()
    for path, _ in walk.files_below(str(folder), record):
        if path not in facts.images:
            record.other_kind(path)
    expected = sorted(str(folder / path) for path in facts.images)
    assert image_files.find([str(folder)]) == expected
    assert [text.replace(f"{folder}/", "") for text in caplog.messages] == record.sentences()
    assert len(record.sentences()) == 2
    matched = image_files.find([f"{folder}/**/*.jpg"])
    assert matched == [path for path in expected if path.endswith(".jpg")]
    with pytest.raises(UserError, match="1 pipe, socket or device"):
        image_files.find([str(folder / "pipe.jpg")])


def test_a_saved_model_that_is_not_an_encoder_is_a_sentence(models_dir, tmp_path):
    with pytest.raises(UserError, match="has no signature"):
        SavedModelTransport(str(models_dir / "half_plus" / "2"))
    (tmp_path / "saved_model.pb").write_bytes(b"nothing")
    with pytest.raises(UserError, match="does not load"):
        SavedModelTransport(str(tmp_path))


def test_of_a_models_folder_the_highest_version_is_taken(encoder_dir, tmp_path):
    shutil.copytree(encoder_dir / "1", tmp_path / "9")
    (tmp_path / "10").symlink_to(encoder_dir / "1")
    (tmp_path / "11").mkdir()
    assert SavedModelTransport(str(tmp_path)).path == str(tmp_path / "10")
    with pytest.raises(UserError, match="holds no saved_model.pb"):
        SavedModelTransport(str(tmp_path / "11"))


def shown(pictures, *keys):
    return [pictures.of_key(key) is not None for key in keys]


def test_only_images_below_the_folder_are_shown(photos):
    inside = "photos/dog/0000.jpg"
    shutil.copy(photos / inside, photos / "private.jpg")
    (photos / "photos" / "link.jpg").symlink_to(photos / "private.jpg")
    (photos / "photos" / "inner.jpg").symlink_to(photos / inside)
    os.mkfifo(photos / "photos" / "pipe.jpg")
    outside = ("private.jpg", "photos/../private.jpg", f"{photos}/private.jpg", "../private.jpg",
               "photos/link.jpg", "photos/pipe.jpg", "photos", "a\0b", "photos/notes.txt",
               "photos/ship/0001.jpg")  # fmt: skip
    page = str(photos / "page.html")
    for root in (str(photos), "/nowhere"):
        pictures = Pictures(str(photos / "photos"), root, page)
        assert not any(shown(pictures, *outside))
        assert all(shown(pictures, f"{photos}/{inside}", "dog/0000.jpg", "inner.jpg"))
    assert shown(Pictures(str(photos / "photos"), str(photos), page), inside) == [True]
    assert shown(Pictures(None, str(photos), page), inside, f"{photos}/{inside}") == [False, False]
    assert Pictures(None, "", page).of_file(str(photos / inside)).link == inside


def test_a_picture_is_of_a_format_that_is_embedded_and_bounded(photos, monkeypatch):
    pictures = Pictures(None, "", "page.html")
    Image.new("RGB", (40, 30)).save(photos / "a.png", "PPM")
    Image.new("RGB", (40, 30)).save(photos / "b.png")
    assert pictures.of_file(str(photos / "a.png")) is None
    assert pictures.of_file(str(photos / "b.png")) is not None
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert pictures.of_file(str(photos / "b.png")) is None  # Pillow itself would only warn.


def test_a_link_stays_a_relative_path(photos):
    name = 'javascript:alert(1) "#?%41.png'
    Image.new("RGB", (40, 30)).save(photos / name)
    link = Pictures(None, "", str(photos / "page.html")).of_file(str(photos / name)).link
    assert urllib.parse.urljoin(f"file://{photos}/page.html", link) == f"file://{photos}/{link}"
    assert urllib.parse.unquote(link) == name and ":" not in link and '"' not in link


def test_a_page_without_its_images_still_shows_the_list(photos):
    call_arguments = ("--k=2", "--output=page.html", "photos/dog/0000.jpg")
    keys = ["photos/dog/0000.jpg", "/etc/../x\x1b[2J", "photos/cat/0001.jpg"]
    found = embeddings.Embeddings(keys, np.eye(3, 4, dtype=np.float32) + 1)
    embeddings.write(str(photos / "x.npy"), [found], 3, {"root": str(photos)})
    text = call("neighbors", "--embeddings=x.npy", *call_arguments, cwd=photos)
    assert "not shown: give --images_dir" in text and "\x1b" not in text
    page = (photos / "page.html").read_text()
    assert page.count(">not shown<") == 2 and page.count("<img ") == 1  # The query itself is.
    assert "0.857" in page and "give --images_dir" in page


def test_near_duplicates_are_listed_and_shown(photos):
    keys = sorted(str(file.relative_to(photos)) for file in (photos / "photos").glob("dog/*.jpg"))
    values = np.float32([[1, 0, 0], [0, 1, 0], [1, 0.01, 0], [0, 1, 1]])
    embeddings.write(
        str(photos / "x.npy"), [embeddings.Embeddings(keys, values)], 4, {"root": str(photos)}
    )
    arguments = ("--embeddings=x.npy", "--duplicates", "--images_dir=photos", "--output=page.html")
    text = call("neighbors", *arguments, cwd=photos)
    assert text.startswith(f"2 images\n   1.000  {keys[0]}\n   1.000  {keys[2]}\n1 group ")
    page = (photos / "page.html").read_text()
    assert page.count("<section>") == 1 and page.count("<img ") == 2 and keys[1] not in page
    text = call("neighbors", *arguments[:2], "--threshold=0.7", cwd=photos)
    assert "\n2 groups with 4 of the 4 images" in text
    assert "takes no query" in call("neighbors", *arguments, "a.jpg", cwd=photos, status=1)


class _Code:
    def __init__(self, witness: pathlib.Path):
        self.witness = witness

    def __reduce__(self):
        return pathlib.Path.touch, (self.witness,)


@pytest.mark.parametrize("read", [embeddings.read, embeddings.read_keys])
def test_a_file_from_a_stranger_runs_no_code(tmp_path, read):
    """CVE-2023-47248: the schema alone is enough, whichever columns are read."""
    witness, path = tmp_path / "witness", str(tmp_path / "a.parquet")
    pickled = {
        "ARROW:extension:name": "arrow.py_extension_type",  # pyarrow 10 unpickles it by itself.
        "ARROW:extension:metadata": pickle.dumps(_Code(witness)),
    }
    schema = pa.schema(
        [
            pa.field("key", pa.string()),
            pa.field("embedding", pa.list_(pa.float32())),
            pa.field("code", pa.int64(), metadata=pickled),
        ]
    )
    pq.write_table(pa.table([["a.jpg"], [[0.5, 1.5]], [1]], schema=schema), path)
    try:
        read(path)
    except UserError as error:
        assert "a.parquet' has a column of a pickled type" in str(error)
    # Newer versions of pyarrow read the column as what it stores, integers.
    assert not witness.exists()
