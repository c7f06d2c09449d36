"""The examples and labels that a source finds, and its errors if it finds none."""

import os

import messy_folder
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from byol_tf.errors import UserError
from byol_tf.sources import FolderSource, Shard, TFDSSource, TFRecordSource, open_source, walk
from byol_tf.sources.source import shuffled_indices


def write_image(path, color=(10, 20, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), color).save(path)


def example(**features) -> bytes:
    """Returns a serialized tf.Example; `image_key` stands for image/key."""
    encode = {
        bytes: lambda value: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value])),
        int: lambda value: tf.train.Feature(int64_list=tf.train.Int64List(value=[value])),
    }
    feature = {
        name.replace("_", "/", 1): encode[type(value)](value) for name, value in features.items()
    }
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def write_records(path, records):
    options = "GZIP" if path.suffix == ".gz" else ""
    with tf.io.TFRecordWriter(str(path), options) as writer:
        for record in records:
            writer.write(record)


def below(folder) -> list[str]:
    return sorted(path for path, _ in walk.files_below(str(folder)))


def examples_in_order(source, **kwargs) -> list[tuple]:
    """Returns (image_bytes, label, key) of every example."""
    chunks = source.in_order(3, **kwargs).unbatch()
    loaded = chunks.map(lambda _, *example: source.load(*example))
    return list(loaded.as_numpy_iterator())


def test_class_subfolders_in_sorted_order_are_the_labels(tmp_path):
    for path in ("dog/b.jpg", "dog/A.JPEG", "cat/c.png", "ant/d.gif", "ant/e.BMP"):
        write_image(tmp_path / path)
    source = open_source(str(tmp_path))
    assert isinstance(source, FolderSource)
    assert source.class_names == ("ant", "cat", "dog")
    assert source.num_examples == 5
    labels = {key.decode(): label for _, label, key in examples_in_order(source)}
    expected = {"ant/d.gif": 0, "ant/e.BMP": 0, "cat/c.png": 1, "dog/A.JPEG": 2, "dog/b.jpg": 2}
    assert labels == expected


def test_folder_loads_the_files_bytes(tmp_path):
    write_image(tmp_path / "cat/a.png", (1, 2, 3))
    ((image_bytes, _, _),) = examples_in_order(open_source(str(tmp_path)))
    assert image_bytes == (tmp_path / "cat/a.png").read_bytes()


def test_files_deeper_down_belong_to_their_outermost_subfolder(tmp_path):
    for path in ("cat/2019/may/a.jpg", "cat/b.jpg", "dog/2019/c.jpg"):
        write_image(tmp_path / path)
    source = open_source(str(tmp_path))
    assert source.class_names == ("cat", "dog")
    assert [label for _, label, _ in examples_in_order(source)] == [0, 0, 1]


def test_images_without_subfolders_are_unlabelled(tmp_path):
    write_image(tmp_path / "a.jpg")
    source = open_source(str(tmp_path))
    assert source.class_names is None
    assert [label for _, label, _ in examples_in_order(source)] == [-1]


def test_images_beside_class_subfolders_make_the_set_unlabelled_with_a_warning(tmp_path, caplog):
    write_image(tmp_path / "a.jpg")
    write_image(tmp_path / "cat/b.jpg")
    source = open_source(str(tmp_path))
    assert source.class_names is None and source.num_examples == 2
    assert "1 images lie beside the class subfolders" in caplog.text


def test_hidden_and_other_files_are_left_out_and_links_followed(tmp_path):
    write_image(tmp_path / "set/cat/a.jpg")
    write_image(tmp_path / "set/cat/._a.jpg")
    write_image(tmp_path / "set/.thumbnails/b.jpg")
    write_image(tmp_path / "elsewhere/c.jpg")
    (tmp_path / "set/cat/notes.txt").write_text("no image")
    (tmp_path / "set/notes").mkdir()
    (tmp_path / "set/dog").symlink_to(tmp_path / "elsewhere")
    source = open_source(str(tmp_path / "set"))
    assert [key for _, _, key in examples_in_order(source)] == [b"cat/a.jpg", b"dog/c.jpg"]
    assert source.class_names == ("cat", "dog")


def test_a_link_to_a_folder_that_contains_it_is_not_followed(tmp_path):
    write_image(tmp_path / "set/cat/a.jpg")
    (tmp_path / "set/cat/again").symlink_to(tmp_path / "set")
    (tmp_path / "set/itself").symlink_to(tmp_path / "set")
    (tmp_path / "link").symlink_to(tmp_path / "set")
    for folder in ("set", "link"):
        assert below(tmp_path / folder) == ["cat/a.jpg"]
    assert [key for _, _, key in examples_in_order(open_source(str(tmp_path / "set")))] == [
        b"cat/a.jpg"
    ]


def test_the_walk_skips_hidden_files_and_folders_but_not_a_hidden_start(tmp_path):
    for path in (".set/a.txt", ".set/.b.txt", ".set/.git/c.txt", ".set/d/e.txt", ".set/d/.f/g.txt"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    assert below(tmp_path / ".set") == ["a.txt", "d/e.txt"]


def test_a_folder_is_visited_once_and_rather_without_links(tmp_path):
    write_image(tmp_path / "set/zoo/a.jpg")
    (tmp_path / "set" / "cat").symlink_to(tmp_path / "set" / "zoo")
    write_image(tmp_path / "elsewhere/b.jpg")
    for name in ("dog", "elk"):
        (tmp_path / "set" / name).symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "all").symlink_to(tmp_path)  # A folder that contains the set.
    assert below(tmp_path / "set") == ["dog/b.jpg", "zoo/a.jpg"]


def test_folders_linked_to_each_other_take_no_more_time_than_their_number(tmp_path):
    for name in map(str, range(12)):  # 12! ways through them.
        write_image(tmp_path / name / "a.jpg")
        for other in map(str, range(12)):
            (tmp_path / name / f"to{other}").symlink_to(tmp_path / other)
    assert len(below(tmp_path)) == 12


def test_what_cannot_be_read_is_skipped_and_told_in_two_sentences(tmp_path, caplog, monkeypatch):
    facts = messy_folder.tangle(tmp_path / "messy")
    monkeypatch.setattr(walk, "MAX_FILE_BYTES", 1 << 20)
    with open(tmp_path / "messy" / "huge.jpg", "wb") as file:
        file.truncate((1 << 20) + 1)
    source = open_source(str(tmp_path / "messy"))  # Opening the pipe would not return.
    assert {key.decode() for _, _, key in examples_in_order(source)} == facts.images
    assert caplog.messages[:2] == [
        f"{tmp_path}/messy: 6 entries are skipped: 3 broken link, 2 pipe, socket or device, "
        "1 file larger than 1 MiB (such as broken.jpg).",
        f"{tmp_path}/messy: 3 files of other kinds not read: 2 .cr2, 1 .txt.",
    ]


def test_shuffled_indices_are_endless_epochs_that_start_at_any_position():
    def pairs(count, **options):
        dataset = shuffled_indices(5, 3, **options).take(count)
        return [(int(position), int(index)) for position, index in dataset]

    found = pairs(20)
    assert [position for position, _ in found] == list(range(20))
    orders = [[index for _, index in found[start : start + 5]] for start in range(0, 20, 5)]
    # Fixed: a resumed run continues in the order in which it began.
    wanted = [tf.random.experimental.stateless_shuffle(range(5), [3, epoch]) for epoch in range(4)]
    assert orders == [order.numpy().tolist() for order in wanted]
    assert pairs(6, start=7) == found[7:13]
    owned = [(position, index) for position, index in found if position % 4 in (1, 2)]
    assert pairs(8, start=3, shard=Shard(4, 1, 2)) == [pair for pair in owned if pair[0] >= 3][:8]


def test_file_names_need_not_be_utf8(tmp_path):
    write_image(tmp_path / "cat/ü b.jpg")
    os.rename(tmp_path / "cat/ü b.jpg", os.fsencode(tmp_path) + b"/cat/\xfc b.jpg")
    ((image_bytes, _, key),) = examples_in_order(open_source(str(tmp_path)))
    assert key == b"cat/\xfc b.jpg" and image_bytes.startswith(b"\xff\xd8")


def test_limit_spaces_examples_evenly(tmp_path):
    for number in range(10):
        write_image(tmp_path / f"{number}.png")
    source = open_source(str(tmp_path))
    expected = {1: [0], 2: [0, 5], 4: [0, 3, 5, 8], 10: list(range(10)), 99: list(range(10))}
    for limit, numbers in expected.items():
        assert [int(key[:1]) for _, _, key in examples_in_order(source, limit=limit)] == numbers


@pytest.mark.parametrize("kind", ["empty", "missing", "no images", "an image"])
def test_a_path_without_images_is_a_sentence_that_names_it(tmp_path, kind):
    path = tmp_path / "photos"
    if kind in ("empty", "no images"):
        path.mkdir()
    if kind == "no images":
        (path / "a.txt").write_text("no image")
    if kind == "an image":
        path = tmp_path / "a.jpg"
        write_image(path)
    with pytest.raises(UserError, match=str(path)):
        open_source(str(path))


def test_an_unreadable_folder_is_a_sentence(tmp_path, monkeypatch):
    write_image(tmp_path / "cat/a.jpg")
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("cat"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)  # Tests may run as root, whom chmod does not stop.
    with pytest.raises(UserError, match="cat' cannot be read .Permission denied"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("name", ["", "part-00000.gz", "part-*"])
def test_tfrecords_open_as_a_folder_a_file_and_a_glob(tmp_path, name):
    files = ["a.tfrecord", "b.tfrecord"] if not name else ["part-00000.gz", "part-00001.gz"]
    for number, file in enumerate(files):
        write_records(tmp_path / file, [example(image_encoded=b"%d" % number)] * (number + 2))
    source = open_source(str(tmp_path / name))
    assert isinstance(source, TFRecordSource)
    expected = [b"0"] * 2 if name == "part-00000.gz" else [b"0"] * 2 + [b"1"] * 3
    assert [image_bytes for image_bytes, _, _ in examples_in_order(source)] == expected
    assert source.num_examples == len(expected)
    assert source.class_names is None


def test_tfrecord_labels_texts_and_keys(tmp_path):
    records = [
        example(image_encoded=b"x", image_label=2, image_label_text=b"dog", image_key=b"x.jpg"),
        example(image_encoded=b"y", image_label=0, image_label_text=b"cat", image_key=b"y.jpg"),
        example(image_encoded=b"z", image_label=2),
    ]
    write_records(tmp_path / "a.tfrecord", records)
    source = open_source(str(tmp_path))
    assert source.class_names == ("cat", "1", "dog")
    key = f"{tmp_path}/a.tfrecord#2".encode()
    assert examples_in_order(source) == [(b"x", 2, b"x.jpg"), (b"y", 0, b"y.jpg"), (b"z", 2, key)]


def test_tfrecords_of_which_some_lack_a_label_are_unlabelled(tmp_path, caplog):
    records = [example(image_encoded=b"x", image_label=1), example(image_encoded=b"y")]
    write_records(tmp_path / "a.tfrecord", records)
    source = open_source(str(tmp_path))
    assert source.class_names is None
    assert [label for _, label, _ in examples_in_order(source)] == [-1, -1]
    assert "some examples lack image/label" in caplog.text


@pytest.mark.parametrize(
    "damage", ["truncated", "not TFRecord", "not Example", "no image", "empty"]
)
def test_damaged_tfrecords_are_a_sentence_that_names_the_file(tmp_path, damage):
    path = tmp_path / "a.tfrecord"
    record = {"not Example": b"\xff\xff\xff", "no image": example(image_key=b"x")}
    write_records(path, [record.get(damage, example(image_encoded=b"x" * 100))] * 3)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-20])
    if damage == "not TFRecord":
        path.write_bytes(b"no TFRecord at all, but long enough to have a header")
    if damage == "empty":
        path.write_bytes(b"")
    with pytest.raises(UserError, match=str(path)):
        open_source(str(path))


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
    """A TFDS data set of PNGs, 4 to train, 2 to test; image i has grey level i, class i % 2."""
    import tensorflow_datasets as tfds

    data_dir = tmp_path_factory.mktemp("tfds")
    folder = data_dir / "dots" / "1.0.0"
    folder.mkdir(parents=True)
    features = tfds.features.FeaturesDict(
        {
            "note": tfds.features.Text(),
            "image": tfds.features.Image(shape=(8, 8, 3), encoding_format="png"),
            "label": tfds.features.ClassLabel(names=["even", "odd"]),
        }
    )
    template = tfds.core.ShardedFileTemplate(
        dataset_name="dots", data_dir=folder, filetype_suffix="tfrecord"
    )
    splits = []
    for split, numbers in (("train", range(4)), ("test", range(4, 6))):
        examples = [
            {"note": "x", "image": np.full((8, 8, 3), i, np.uint8), "label": i % 2} for i in numbers
        ]
        records = [features.serialize_example(features.encode_example(e)) for e in examples]
        write_records(folder / f"dots-{split}.tfrecord-00000-of-00001", records)
        filenames = template.replace(split=split)
        splits.append(tfds.core.SplitInfo(split, [len(records)], 1, filename_template=filenames))
    tfds.folder_dataset.write_metadata(
        data_dir=folder, features=features, split_infos=splits, filename_template=template
    )
    return data_dir


@pytest.mark.parametrize(
    "name, colors",
    [
        ("tfds:dots", [0, 1, 2, 3]),
        ("tfds:dots:test", [4, 5]),
        ("tfds:dots:1.0.0", [0, 1, 2, 3]),
        ("tfds:dots:1.0.0:train[50%:]", [2, 3]),
    ],
)
def test_tfds_names_splits_and_versions(tfds_dir, monkeypatch, name, colors):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tfds_dir))
    source = open_source(name)
    assert isinstance(source, TFDSSource)
    assert source.class_names == ("even", "odd")
    assert source.num_examples == len(colors)
    found = examples_in_order(source)
    assert [label for _, label, _ in found] == [color % 2 for color in colors]
    images = [tf.io.decode_png(image_bytes) for image_bytes, _, _ in found]  # Still encoded.
    assert [int(image[0, 0, 0]) for image in images] == colors
    assert len({key for _, _, key in found}) == len(colors)


@pytest.mark.parametrize(
    "name, says",
    [
        ("tfds:nowhere", "tfds build nowhere"),
        ("tfds:dots:validation", "choose from"),
        ("tfds:", "write tfds:NAME"),
    ],
)
def test_bad_tfds_names_are_a_sentence_that_says_what_to_do(tfds_dir, monkeypatch, name, says):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tfds_dir))
    with pytest.raises(UserError, match=says):
        open_source(name)
