import gzip
import hashlib
import json
import os
import shutil
from collections import Counter

import messy_folder
import pytest
import tensorflow as tf
from pictures import encoded, photo
from PIL import Image

from byol_tf.errors import UserError

QUARANTINE, NOT_READ = "quarantine.tsv", "not_read.txt"
# Functions import TFX, so that a run without slow tests does not wait for it.
pytestmark = pytest.mark.slow


def input_config(**patterns):
    from tfx.v1 import proto

    split = proto.Input.Split
    return proto.Input(splits=[split(name=n, pattern=p) for n, p in patterns.items()])


def output_config(**buckets):
    from tfx.v1 import proto

    split = proto.SplitConfig.Split
    splits = [split(name=name, hash_buckets=size) for name, size in buckets.items()]
    return proto.Output(split_config=proto.SplitConfig(splits=splits))


def ingest(base, uri, **options):
    """Returns the artifact that the component's executor writes to `uri`."""
    from tfx.v1.types import standard_artifacts

    from pipelines.components.image_example_gen.component import ImageExampleGen
    from pipelines.components.image_example_gen.executor import Executor

    options = {"labels": "folders", "max_corrupt_fraction": 0.01} | options
    component = ImageExampleGen(str(base), **options)
    examples = standard_artifacts.Examples()
    examples.uri = str(uri)
    Executor().Do({}, {"examples": [examples]}, component.exec_properties)
    return examples


def shard_files(examples):
    root = examples.uri
    return sorted(
        os.path.relpath(os.path.join(parent, name), root)
        for parent, _, names in os.walk(root)
        for name in names
        if name.endswith(".gz")
    )


def records(examples, split):
    """Returns the tf.Examples of a split by key; each key occurs once."""
    found = {}
    for name in shard_files(examples):
        if name.startswith(f"Split-{split}/"):
            path = os.path.join(examples.uri, name)
            for serialized in tf.data.TFRecordDataset(path, "GZIP").as_numpy_iterator():
                example = tf.train.Example.FromString(serialized)
                (key,) = example.features.feature["image/key"].bytes_list.value
                assert os.fsdecode(key) not in found
                found[os.fsdecode(key)] = example
    return found


def label(example):
    feature = example.features.feature
    (number,) = feature["image/label"].int64_list.value
    (text,) = feature["image/label_text"].bytes_list.value
    return number, text.decode()


def bucket(key, total):
    return int.from_bytes(hashlib.sha256(os.fsencode(key)).digest(), "big") % total


@pytest.fixture
def data(tmp_path):
    """Makes twenty cats and twenty dogs."""
    for number in range(40):
        path = tmp_path / "data" / ("dog" if number % 2 else "cat") / f"{number:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(Image.fromarray(photo(9, 12, number)), "JPEG"))
    return tmp_path / "data"


def test_one_split_is_divided_nine_to_one_by_the_hash_of_the_path(images_dir, tmp_path):
    base = images_dir / "train"
    keys = [path.relative_to(base).as_posix() for path in base.glob("*/*.jpg")]
    examples = ingest(base, tmp_path / "out")
    train, evaluation = records(examples, "train"), records(examples, "eval")
    assert json.loads(examples.split_names) == ["train", "eval"]
    assert sorted(evaluation) == sorted(key for key in keys if bucket(key, 10) == 9)
    assert sorted([*train, *evaluation]) == sorted(keys)
    classes = sorted(path.name for path in base.iterdir())
    for key, example in (train | evaluation).items():
        (image_bytes,) = example.features.feature["image/encoded"].bytes_list.value
        assert image_bytes == (base / key).read_bytes()
        assert label(example) == (classes.index(key.split("/")[0]), key.split("/")[0])
    assert examples.get_json_value_custom_property("num_examples") == {
        "train": len(train),
        "eval": len(evaluation),
    }
    assert examples.get_int_custom_property("num_corrupt") == 0
    assert examples.get_string_custom_property("payload_format") == "FORMAT_TF_EXAMPLE"
    assert (tmp_path / "out" / QUARANTINE).read_text() == ""


def test_input_splits_are_what_their_patterns_say(images_dir, tmp_path):
    examples = ingest(
        images_dir,
        tmp_path,
        input_config=input_config(train="train/**", eval="test/*/000*.jpg"),
    )
    for split, pattern in (("train", "train/*/*.jpg"), ("eval", "test/*/000?.jpg")):
        found = records(examples, split)
        expected = {p.relative_to(images_dir).as_posix() for p in images_dir.glob(pattern)}
        assert set(found) == expected and len(expected) >= 100
        # Below the pattern's fixed part: both splits have the same ten classes.
        assert Counter(map(label, found.values())).keys() == {
            (n, c) for n, c in enumerate(sorted(os.listdir(images_dir / "test")))
        }


def test_output_splits_have_their_names_and_buckets(data, tmp_path):
    options = {"output_config": output_config(train=1, eval=1, rest=2), "labels": "none"}
    examples = ingest(data, tmp_path / "out", **options)
    for split, buckets in (("train", {0}), ("eval", {1}), ("rest", {2, 3})):
        found = records(examples, split)
        assert found and {bucket(key, 4) for key in found} == buckets
        assert {label(example) for example in found.values()} == {(-1, "")}


def test_corrupt_images_go_to_quarantine(data, tmp_path):
    (data / "cat" / "00.jpg").write_bytes(b"text")
    image = (data / "dog" / "01.jpg").read_bytes()
    (data / "dog" / "01.jpg").write_bytes(image[:-100])
    examples = ingest(data, tmp_path / "out", max_corrupt_fraction=0.05)
    lines = (tmp_path / "out" / QUARANTINE).read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == ["cat/00.jpg", "dog/01.jpg"]
    assert all(len(line.split("\t")[1]) > 5 for line in lines)
    assert examples.get_int_custom_property("num_corrupt") == 2
    corrupt = examples.get_json_value_custom_property("corrupt")
    assert corrupt == ["cat/00.jpg", "dog/01.jpg"]
    assert sum(examples.get_json_value_custom_property("num_examples").values()) == 38
    assert len(records(examples, "train") | records(examples, "eval")) == 38


@pytest.mark.parametrize(
    ("corrupt", "allowed", "fails"), [(3, 0.05, True), (1, 0.01, False), (1, 0, True)]
)
def test_too_many_corrupt_images_are_a_sentence(data, tmp_path, corrupt, allowed, fails):
    for number in range(corrupt):
        (data / "cat" / f"{2 * number:02d}.jpg").write_bytes(b"text")
    if not fails:  # One corrupt image is always allowed.
        ingest(data, tmp_path / "out", max_corrupt_fraction=allowed)
        return
    with pytest.raises(UserError) as error:
        ingest(data, tmp_path / "out", max_corrupt_fraction=allowed)
    sentence = str(error.value)
    assert sentence.startswith(f"{corrupt} of the 40 images in '{data}' are corrupt")
    assert "cat/00.jpg" in sentence and "\n" not in sentence
    assert f"--max_corrupt_fraction={allowed:g}" in sentence


def test_photos_of_other_channels_than_the_models_are_a_sentence(data, tmp_path):
    with pytest.raises(UserError) as caught:
        ingest(data, tmp_path / "out", channels=13, bit_depth=16)
    assert str(caught.value).startswith(f"40 of the 40 images in '{data}' are corrupt, more than")
    assert "(such as cat/00.jpg: it has 3 bands, not the 13 of config.channels)" in str(
        caught.value
    )


def test_channels_that_differ_are_a_sentence_or_left_out(data, tmp_path):
    for number in range(4):  # One in ten.
        image = Image.fromarray(photo(9, 12, number)).convert("RGBA")
        (data / "cat" / f"{2 * number:02d}.jpg").write_bytes(encoded(image, "PNG"))
    with pytest.raises(UserError, match="36 of the 40 .* it has 3 bands, not the 4 of"):
        ingest(data, tmp_path / "four", channels=4)
    examples = ingest(data, tmp_path / "three", channels=3)  # Alpha is dropped.
    kinds = Counter(
        example.features.feature["image/pixels"].bytes_list.value[0]
        for split in ("train", "eval")
        for example in records(examples, split).values()
    )
    assert kinds == {b"3 channels, 8 bit": 36, b"4 channels, 8 bit": 4}


def test_a_messy_folder_is_ingested_and_what_is_not_read_is_told(images_dir, tmp_path, caplog):
    facts = messy_folder.build(tmp_path / "messy", images_dir / "test")
    examples = ingest(tmp_path / "messy", tmp_path / "out", max_corrupt_fraction=0.1)
    found = records(examples, "train") | records(examples, "eval")
    assert set(found) == facts.images
    lines = (tmp_path / "out" / QUARANTINE).read_text().splitlines()
    assert {line.split("\t")[0] for line in lines} == facts.corrupt
    for key in ("formats/webp.webp", "formats/webp.jpg", "formats/deep.tiff"):
        (image_format,) = found[key].features.feature["image/format"].bytes_list.value
        assert image_format == b"PNG"
    told = (tmp_path / "out" / NOT_READ).read_text().splitlines()
    kinds = "3 .cr2, 1 .db, 1 .mov, 1 .txt"
    assert told[0].startswith("5 entries are skipped: 3 broken link, 2 pipe, socket or device")
    assert told[1] == f"6 files of other kinds not read: {kinds}."
    for sentence in told:
        assert caplog.messages.count(f"{tmp_path}/messy: {sentence}") == 1


def test_the_inputs_fingerprint_is_that_of_what_is_read(data):
    from pipelines.components.image_example_gen.driver import InputProcessor

    def fingerprint():
        processor = InputProcessor(str(data), input_config(all="**").splits)
        assert processor.resolve_span_and_version() == (0, None)
        return processor.get_input_fingerprint(0, None)

    before = fingerprint()
    (data / "broken.jpg").symlink_to("nowhere")  # TFX's own fails here.
    assert fingerprint() == before
    (data / "cat" / "00.jpg").rename(data / "cat" / "01.jpg")
    assert fingerprint() != before


def test_the_newest_span_is_found_beside_a_broken_link(tmp_path):
    from pipelines.components.image_example_gen.driver import InputProcessor

    for span in (1, 2):
        (tmp_path / f"span-{span}").mkdir()
        (tmp_path / f"span-{span}" / "a.jpg").touch()
        (tmp_path / f"span-{span}" / "b.jpg").symlink_to("nowhere")
    processor = InputProcessor(str(tmp_path), input_config(all="span-{SPAN}/*").splits)
    assert processor.resolve_span_and_version() == (2, None)


def test_names_that_are_no_unicode_can_be_corrupt_too(data, tmp_path):
    (data / "cat" / "\udcff\t\n.jpg").write_bytes(b"text")
    examples = ingest(data, tmp_path / "out")
    assert examples.get_int_custom_property("num_corrupt") == 1
    (line,) = (tmp_path / "out" / QUARANTINE).read_bytes().splitlines()
    assert line.startswith(b"cat/") and line.count(b"\t") == 1


def test_a_folder_without_images_is_a_sentence(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "notes.txt").write_text("no image")
    with pytest.raises(UserError, match="holds no images .*split 'all'"):
        ingest(tmp_path / "data", tmp_path / "out")


def test_a_pattern_without_images_is_a_sentence(data, tmp_path):
    with pytest.raises(UserError, match=r"split 'eval' \(bird/\*\*\)"):
        ingest(data, tmp_path, input_config=input_config(train="cat/**", eval="bird/**"))


def test_a_split_that_stays_empty_is_a_sentence(tmp_path):
    image = encoded(Image.fromarray(photo(9, 12)), "JPEG")
    names = [name for name in map("{}.jpg".format, range(40)) if bucket(name, 10) != 9]
    (tmp_path / "data").mkdir()
    for name in names[:3]:
        (tmp_path / "data" / name).write_bytes(image)
    with pytest.raises(UserError, match="the split 'eval' of .* has no readable image"):
        ingest(tmp_path / "data", tmp_path / "out")


def test_no_readable_image_at_all_is_a_sentence(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.jpg").write_bytes(b"text")
    with pytest.raises(UserError, match=r"no readable image \(such as a.jpg: "):
        ingest(tmp_path / "data", tmp_path / "out")


def write_records(path, keys):
    image = encoded(Image.fromarray(photo(9, 12)), "JPEG")
    with tf.io.TFRecordWriter(str(path)) as writer:
        for key in keys:
            example = tf.train.Example()
            example.features.feature["image/encoded"].bytes_list.value.append(image)
            example.features.feature["image/key"].bytes_list.value.append(key.encode())
            example.features.feature["image/label"].int64_list.value.append(int(key) % 3)
            writer.write(example.SerializeToString())


def test_records_are_taken_in_place_of_images(tmp_path):
    (tmp_path / "data").mkdir()
    keys = [str(number) for number in range(60)]
    write_records(tmp_path / "data" / "a.tfrecord", keys[:30])
    write_records(tmp_path / "data" / "b.tfrecord", keys[30:])
    options = {"output_config": output_config(train=3, eval=1)}
    examples = ingest(tmp_path / "data", tmp_path / "out", **options)
    train, evaluation = records(examples, "train"), records(examples, "eval")
    assert sorted(evaluation) == sorted(key for key in keys if bucket(key, 4) == 3)
    assert sorted([*train, *evaluation]) == sorted(keys)
    assert all(label(example) == (int(key) % 3, "") for key, example in train.items())


@pytest.mark.parametrize("damage", ["cut", "text"])
def test_a_damaged_record_file_is_a_sentence(tmp_path, damage):
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "a.tfrecord"
    write_records(path, map(str, range(20)))
    path.write_bytes(path.read_bytes()[:-50] if damage == "cut" else b"No record at all.\n" * 9)
    with pytest.raises(UserError) as error:
        ingest(tmp_path / "data", tmp_path / "out")
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_two_runs_write_the_same_bytes(data, tmp_path):
    runs = []
    for number in range(2):
        moved = shutil.copytree(data, tmp_path / f"copy{number}")
        examples = ingest(moved, tmp_path / f"out{number}")
        runs.append(
            {
                name: gzip.decompress((tmp_path / f"out{number}" / name).read_bytes())
                for name in shard_files(examples)
            }
        )
    assert runs[0] == runs[1] and len(runs[0]) == 2


def test_the_same_images_in_another_folder_come_from_the_cache(data, tmp_path):
    """Through the runner: TFX's key has every parameter in it, the folder's path too."""
    from tfx import v1 as tfx

    from pipelines.components.image_example_gen.component import ImageExampleGen
    from pipelines.runners.data_folder import list_folder
    from pipelines.runners.input_links import linked
    from pipelines.settings import Settings

    root = tmp_path / "root"
    labels = tmp_path / "labels.csv"
    keys = sorted(path.relative_to(data).as_posix() for path in data.glob("*/*.jpg"))

    def write(names):
        rows = [f"{key},{names[number % 2]}" for number, key in enumerate(keys)]
        labels.write_text("\n".join(["path,label", *rows]))

    def run(folder):
        """Returns the label texts of the newest execution, and how many there were."""
        digest = list_folder(str(folder), str(labels), {}, {}, None).digest
        settings = linked(
            Settings(str(folder), str(root), "s", {"image_size": 9}, labels=str(labels))
        )
        component = ImageExampleGen(
            settings.data_dir,
            labels=settings.labels,
            max_corrupt_fraction=0.0,
            versions={"listing": digest},
        )
        tfx.orchestration.LocalDagRunner().run(
            tfx.dsl.Pipeline(
                "p",
                str(root),
                components=[component],
                enable_cache=True,
                metadata_connection_config=tfx.orchestration.metadata.sqlite_metadata_connection_config(
                    str(root / "metadata.sqlite")
                ),
            )
        )
        runs = sorted((root / "ImageExampleGen" / "examples").iterdir(), key=lambda p: int(p.name))
        examples = tfx.types.standard_artifacts.Examples()
        examples.uri = str(runs[-1])
        return {label(e)[1] for e in records(examples, "train").values()}, len(runs)

    write(("cat", "dog"))
    assert run(data) == ({"cat", "dog"}, 1)
    moved = data.rename(tmp_path / "moved")
    assert run(moved) == ({"cat", "dog"}, 1)
    write(("cat", "wolf"))
    assert run(moved) == ({"cat", "wolf"}, 2)
    (moved / "cat" / "00.jpg").unlink()
    keys.remove("cat/00.jpg")
    assert run(moved)[1] == 3
