import gzip
import hashlib
import io
import json

import numpy as np
import pytest
import tensorflow as tf
from pictures import encoded, photo
from PIL import Image

from byol_tf.images.preprocessing import decode_image
from pipelines.images.listing import Shard
from pipelines.images.shards import WriteShard

JPEG = encoded(Image.fromarray(photo(30, 40)), "JPEG")


@pytest.fixture(scope="module")
def write(tmp_path_factory):
    """Writes one shard; returns its result, and its records as tf.Examples."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("train", "eval")}
    doer = WriteShard({name: str(folder) for name, folder in folders.items()}, 3, 8)
    doer.setup()

    def run(shard):
        (result,) = doer.process(shard.to_json())
        path = folders[shard.split] / shard.name
        assert [file.name for file in folders[shard.split].iterdir()] == [shard.name]
        records = tf.data.TFRecordDataset(str(path), "GZIP").as_numpy_iterator()
        examples = [tf.train.Example.FromString(record) for record in records]
        path.unlink()
        return json.loads(result), examples

    return run


def value(example, name):
    (found,) = getattr(example.features.feature[name], kind(name)).value
    return found


def kind(name):
    is_number = name in ("image/height", "image/width", "image/label")
    return "int64_list" if is_number else "bytes_list"


def test_features_of_real_images_are_what_pillow_sees(write, images_dir):
    paths = sorted(images_dir.glob("test/*/0000.jpg"))
    images = tuple((str(p), f"{p.parent.name}/0000.jpg", 3, p.parent.name) for p in paths)
    result, examples = write(Shard("train", 0, 1, images))
    assert result == {"split": "train", "examples": len(paths), "corrupt": []}
    assert len(examples) == len(paths) == 10
    for path, example in zip(paths, examples, strict=True):
        with Image.open(path) as image:
            size, image_format = image.size, image.format
        expected = {
            "image/encoded": path.read_bytes(),
            "image/format": image_format.encode(),
            "image/pixels": b"3 channels, 8 bit",
            "image/width": size[0],
            "image/height": size[1],
            "image/key": f"{path.parent.name}/0000.jpg".encode(),
            "image/label": 3,
            "image/label_text": path.parent.name.encode(),
        }
        assert {name: value(example, name) for name in example.features.feature} == expected


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "BMP"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_every_format_keeps_its_bytes_and_is_named_by_them(write, tmp_path, image_format, mode):
    path = tmp_path / "a.jpg"  # The extension does not decide.
    path.write_bytes(encoded(Image.fromarray(photo(30, 47)).convert(mode), image_format))
    _, (example,) = write(Shard("train", 0, 1, ((str(path), "a.jpg", -1, ""),)))
    assert value(example, "image/format") == image_format.encode()
    assert value(example, "image/encoded") == path.read_bytes()
    assert (value(example, "image/height"), value(example, "image/width")) == (30, 47)


def drawn(channels, dtype):
    random = np.random.default_rng(channels)
    return random.integers(0, np.iinfo(dtype).max, (12, 9, channels), dtype, endpoint=True)


def tiff(pixels):
    tifffile = pytest.importorskip("tifffile")
    pytest.importorskip("imagecodecs")
    file = io.BytesIO()
    planar = "contig" if pixels.shape[2] > 1 else None
    tifffile.imwrite(file, pixels, photometric="minisblack", planarconfig=planar)
    return file.getvalue()


def grey(dtype):
    return encoded(Image.fromarray(drawn(1, dtype)[..., 0]), "PNG")


@pytest.mark.parametrize(
    ("make", "channels", "dtype", "pixels"),
    [
        (lambda: grey("uint16"), 1, "uint16", "1 channel, 16 bit"),
        (
            lambda: encoded(Image.fromarray(drawn(4, "uint8")), "PNG"),
            4,
            "uint8",
            "4 channels, 8 bit",
        ),
        (lambda: tiff(drawn(5, "uint16")), 5, "uint16", "5 channels, 16 bit"),
        (lambda: tiff(drawn(1, "uint16")), 1, "uint16", "1 channel, 16 bit"),
    ],
)
def test_channels_and_bits_are_kept(tmp_path, make, channels, dtype, pixels):
    (tmp_path / "a.img").write_bytes(make())
    depth = 16 if dtype == "uint16" else 8
    doer = WriteShard({"train": str(tmp_path)}, channels, depth)
    doer.setup()
    shard = Shard("train", 0, 1, ((str(tmp_path / "a.img"), "a.img", -1, ""),))
    (result,) = doer.process(shard.to_json())
    assert json.loads(result)["examples"] == 1, result
    (record,) = tf.data.TFRecordDataset(str(tmp_path / shard.name), "GZIP").as_numpy_iterator()
    example = tf.train.Example.FromString(record)
    assert value(example, "image/pixels").decode() == pixels
    assert (value(example, "image/height"), value(example, "image/width")) == (12, 9)
    decoded = decode_image(value(example, "image/encoded"), channels, depth)
    np.testing.assert_array_equal(decoded, drawn(channels, dtype))


def test_a_file_of_other_channels_is_corrupt_and_the_reason_says_how_many(tmp_path):
    files = {"photo.jpg": JPEG, "grey.png": grey("uint16")}
    files |= {"photo.webp": encoded(Image.fromarray(photo(30, 40)), "WEBP")}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    doer = WriteShard({"train": str(tmp_path)}, 13, 16)
    doer.setup()
    images = tuple((str(tmp_path / name), name, -1, "") for name in files)
    (result,) = doer.process(Shard("train", 0, 1, images).to_json())
    assert dict(json.loads(result)["corrupt"]) == {
        "photo.jpg": "it has 3 bands, not the 13 of config.channels",
        "grey.png": "it has 1 band, not the 13 of config.channels",
        "photo.webp": "it has 3 bands, not the 13 of config.channels",
    }


def test_an_unlabelled_image_says_so(write, tmp_path):
    (tmp_path / "a.jpg").write_bytes(JPEG)
    _, (example,) = write(Shard("train", 0, 1, ((str(tmp_path / "a.jpg"), "a.jpg", -1, ""),)))
    assert value(example, "image/label") == -1 and value(example, "image/label_text") == b""


def test_corrupt_files_are_named_with_a_reason_and_skipped(write, tmp_path):
    contents = {
        "good.jpg": JPEG,
        "cut.jpg": JPEG[: len(JPEG) // 2],
        "cut.png": encoded(Image.fromarray(photo(30, 40)), "PNG")[:200],
        "text.jpg": b"No image at all.\n",
        "empty.jpg": b"",
        "head.bmp": b"BM",
        "last.jpg": JPEG,
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    names = [*contents, "missing.jpg"]
    images = tuple((str(tmp_path / name), name, 0, "cat") for name in names)
    result, examples = write(Shard("train", 0, 1, images))
    assert [value(example, "image/key") for example in examples] == [b"good.jpg", b"last.jpg"]
    assert result["examples"] == 2
    reasons = dict(result["corrupt"])
    assert set(reasons) == set(names) - {"good.jpg", "last.jpg"}
    assert "No such file" in reasons["missing.jpg"]
    for (
        reason
    ) in reasons.values():  # A reason for a table: no stack trace and no names of graph nodes.
        assert reason and not any(word in reason for word in ("\n", "\t", "{{", "[Op:"))


def test_names_that_are_no_unicode_pass_through(write, tmp_path):
    path = tmp_path / "cat\udcff.jpg"
    path.write_bytes(JPEG)
    _, (example,) = write(Shard("train", 0, 1, ((str(path), path.name, 0, "c\udcff"),)))
    assert value(example, "image/key") == b"cat\xff.jpg"
    assert value(example, "image/label_text") == b"c\xff"


def record(key=None, label=None, text=None, image=JPEG, **more):
    example = tf.train.Example()
    feature = example.features.feature
    for name, given in (("encoded", image), ("key", key), ("label_text", text)):
        if given is not None:
            feature[f"image/{name}"].bytes_list.value.append(given)
    if label is not None:
        feature["image/label"].int64_list.value.append(label)
    for name in more:
        feature[name].float_list.value.append(more[name])
    return example.SerializeToString()


def write_records(path, records):
    options = "GZIP" if path.suffix == ".gz" else ""
    with tf.io.TFRecordWriter(str(path), options) as writer:
        for serialized in records:
            writer.write(serialized)
    return str(path)


@pytest.mark.parametrize("name", ["x.tfrecord", "x.tfrecord.gz"])
def test_records_are_divided_by_the_hash_of_their_keys(write, tmp_path, name):
    keys = [f"{number}.jpg".encode() for number in range(60)]
    path = write_records(tmp_path / name, [record(key, label=1) for key in keys])
    buckets, found = {"train": 3, "eval": 1}, {}
    for split in buckets:
        result, examples = write(Shard(split, 0, 1, records=path, buckets=buckets))
        found[split] = [value(example, "image/key") for example in examples]
        assert result == {"split": split, "examples": len(examples), "corrupt": []}
    in_eval = [k for k in keys if int.from_bytes(hashlib.sha256(k).digest(), "big") % 4 == 3]
    assert found["eval"] == in_eval
    assert found["train"] == [key for key in keys if key not in in_eval]


def test_records_of_others_get_our_features_and_lose_theirs(write, tmp_path):
    records = [
        record(b"a", 5, b"cat"),
        record(),
        record(b"c", bbox=0.5),
        record(b"d", image=None),
        record(b"e", image=b"text"),
    ]
    path = write_records(tmp_path / "x.tfrecord", records)
    result, examples = write(Shard("train", 0, 1, records=path))
    seen = [
        tuple(value(e, f"image/{name}") for name in ("key", "label", "label_text"))
        for e in examples
    ]
    assert seen == [(b"a", 5, b"cat"), (b"x.tfrecord#1", -1, b""), (b"c", -1, b"")]
    for example in examples:
        assert len(example.features.feature) == 8
        assert value(example, "image/encoded") == JPEG and value(example, "image/height") == 30
    assert [key for key, _ in result["corrupt"]] == ["d", "e"]
    assert dict(result["corrupt"])["d"] == "there is no feature image/encoded"


@pytest.mark.parametrize("content", ["cut", "text", "other records", None])
def test_a_damaged_file_of_records_makes_no_shard(tmp_path, content):
    path, out = tmp_path / "x.tfrecord", tmp_path / "out"
    out.mkdir()
    if content:
        write_records(path, [record(b"a")] * 3 + [b"\xff" * 9] * (content == "other records"))
    if content == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    elif content == "text":
        path.write_bytes(b"No record at all.\n" * 9)
    doer = WriteShard({"train": str(out)}, 3, 8)
    doer.setup()
    (result,) = doer.process(Shard("train", 0, 1, records=str(path)).to_json())
    found, reason = json.loads(result)["unreadable"]
    assert found == str(path) and reason and "\n" not in reason and "{{" not in reason
    assert list(out.iterdir()) == []


def test_a_shard_written_twice_has_the_same_records(tmp_path, images_dir):
    paths = sorted(images_dir.glob("test/cat/*.jpg"))
    shard = Shard("train", 0, 1, tuple((str(p), p.name, 0, "cat") for p in paths))
    contents = []
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        doer = WriteShard({"train": str(folder)}, 3, 8)
        doer.setup()
        list(doer.process(shard.to_json()))
        contents.append(gzip.decompress((folder / shard.name).read_bytes()))
    assert contents[0] == contents[1]
    assert np.frombuffer(contents[0][:8], "<u8")[0] > len(paths[0].read_bytes())


def test_a_worker_that_fails_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "a.jpg").write_bytes(JPEG)
    out = tmp_path / "out"
    out.mkdir()
    doer = WriteShard({"train": str(out)}, 3, 8)
    doer.setup()

    def fail(path):
        raise MemoryError

    monkeypatch.setattr(doer._reader, "read", fail)
    shard = Shard("train", 0, 1, ((str(tmp_path / "a.jpg"), "a.jpg", 0, ""),))
    with pytest.raises(MemoryError):
        list(doer.process(shard.to_json()))
    assert list(out.iterdir()) == []
