import hashlib
import json
import logging
import os
import random
import shutil
import subprocess
import sys
from collections import Counter

import messy_folder
import pytest

from byol_tf.errors import UserError
from byol_tf.sources.unread import Unread
from pipelines.images import listing
from pipelines.images.listing import File, Shard


def make(folder, *names):
    """Makes empty files of these names: a listing opens no file."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return str(folder)


def keys(base, pattern="**"):
    return [file.key for file in listing.find_files(str(base), pattern)]


def image_files(names, size=1):
    return [File(f"/data/{name}", name, name.partition("/")[0], size, 0.0) for name in names]


def sentence_of(error):
    sentence = str(error.value)
    assert "\n" not in sentence and sentence.endswith(".")
    return sentence


@pytest.fixture
def tree(tmp_path):
    return make(
        tmp_path / "data", "top.png", "train/cat/a.jpg", "train/dog/deep/b.JPEG", "test/cat/c.gif"
    )


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("**", ["test/cat/c.gif", "top.png", "train/cat/a.jpg", "train/dog/deep/b.JPEG"]),
        ("*", ["top.png"]),
        ("train/**", ["train/cat/a.jpg", "train/dog/deep/b.JPEG"]),
        ("train/*/*", ["train/cat/a.jpg"]),
        ("t*t/**", ["test/cat/c.gif"]),
        ("*.png", ["top.png"]),
        ("eval/**", []),
    ],
)
def test_patterns_match_below_the_folder(tree, pattern, found):
    assert keys(tree, pattern) == found
    assert keys(tree + "/", pattern) == found


def test_a_folders_own_name_is_no_pattern(tmp_path):
    assert keys(make(tmp_path / "photos [2024] *", "a.jpg")) == ["a.jpg"]


def test_what_is_hidden_or_no_image_is_left_out(tmp_path):
    base = make(
        tmp_path, "a.jpg", ".b.jpg", ".cache/c.jpg", "d/.e/f.jpg", "notes.txt", "g.tfrecord-0", "h"
    )
    assert keys(base) == ["a.jpg", "g.tfrecord-0"]


def test_what_cannot_be_read_is_skipped_and_counted(tmp_path):
    facts = messy_folder.tangle(tmp_path / "messy")
    unread = Unread()
    found = listing.find_files(str(tmp_path / "messy"), "**", unread)
    assert {file.key for file in found} == facts.images
    assert unread.sentences() == [
        "5 entries are skipped: 3 broken link, 2 pipe, socket or device (such as broken.jpg).",
        "3 files of other kinds not read: 2 .cr2, 1 .txt.",
    ]


def test_a_folder_that_two_splits_link_to_is_in_both(tmp_path):
    make(tmp_path / "store", "a.jpg")
    for split in ("eval", "train"):
        make(tmp_path / "data", f"{split}/dog/b.jpg")
        (tmp_path / "data" / split / "cat").symlink_to(tmp_path / "store")
    for split in ("eval", "train"):
        expected = [f"{split}/cat/a.jpg", f"{split}/dog/b.jpg"]
        assert keys(tmp_path / "data", f"{split}/**") == expected


def test_links_to_folders_are_followed_and_circles_end(tmp_path):
    make(tmp_path / "elsewhere", "a.jpg")
    base = make(tmp_path / "data", "dog/b.jpg")
    (tmp_path / "data" / "cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "dog" / "up").symlink_to(tmp_path / "data")
    assert keys(base) == ["cat/a.jpg", "dog/b.jpg"]


def test_size_and_time_are_the_files_own(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"12345")
    os.utime(tmp_path / "a.jpg", (1, 1234.5))
    (file,) = listing.find_files(str(tmp_path), "**")
    assert (file.path, file.size, file.modified) == (str(tmp_path / "a.jpg"), 5, 1234.5)


def test_a_missing_folder_is_a_sentence(tmp_path):
    with pytest.raises(UserError) as error:
        keys(tmp_path / "nowhere")
    assert "nowhere" in sentence_of(error)


def test_an_unreadable_folder_is_a_sentence(tmp_path):
    base = make(tmp_path, "cat/a.jpg", "dog/b.jpg")
    (tmp_path / "dog").chmod(0)
    code = (
        "import sys; from pipelines.images import listing\n"
        "try: print(listing.find_files(sys.argv[1], '**'))\n"
        "except ValueError as error: print(type(error).__name__, error)"
    )
    command = [sys.executable, "-c", code, base]
    if os.getuid() == 0:  # Root ignores permissions unless it gives up that right.
        if not shutil.which("setpriv"):
            pytest.skip("root without setpriv")
        command[:0] = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    try:
        run = subprocess.run(command, check=True, capture_output=True, text=True)
    finally:
        (tmp_path / "dog").chmod(0o755)
    assert run.stdout.startswith("UserError ")
    assert f"{base}/dog" in run.stdout and "Permission denied" in run.stdout
    assert run.stdout.count("\n") == 1


def test_the_digest_changes_with_what_the_listing_shows_and_only_then(tmp_path):
    base = make(tmp_path, "a.jpg", "b.jpg")
    os.utime(tmp_path / "b.jpg", (0, 0))

    def digest():
        return listing.digest(listing.find_files(base, "**"))

    seen = [digest()]
    (tmp_path / "notes.txt").write_text("not listed")
    os.utime(tmp_path / "b.jpg", (5, 0))  # The time of reading, not of writing.
    assert digest() == seen[0]
    changes = [
        lambda: os.utime(tmp_path / "b.jpg", (0, 7)),
        lambda: (tmp_path / "a.jpg").rename(tmp_path / "c.jpg"),
        lambda: (os.truncate(tmp_path / "b.jpg", 3), os.utime(tmp_path / "b.jpg", (0, 7))),
        lambda: make(tmp_path, "d.jpg"),
        lambda: (tmp_path / "d.jpg").unlink(),
    ]
    for change in changes:
        change()
        seen.append(digest())
    assert seen[-1] == seen[-3] and len(set(seen)) == len(seen) - 1


@pytest.mark.parametrize("pattern", ["train/**", "train/*/*", "train/*/*.jpg"])
def test_classes_are_the_folders_below_the_patterns_fixed_part(tmp_path, pattern):
    base = make(tmp_path, "train/cat/a.jpg", "train/dog/b.jpg", "eval/cat/c.jpg")
    files = {name: listing.find_files(base, name + pattern[5:]) for name in ("train", "eval")}
    assert listing.class_names(files, "folders", base) == {
        "train/cat/a.jpg": "cat",
        "train/dog/b.jpg": "dog",
        "eval/cat/c.jpg": "cat",
    }
    assert listing.class_names(files, "none", base) == {}


def test_an_image_outside_of_the_classes_makes_the_set_unlabelled(tmp_path, caplog):
    base = make(tmp_path, "cat/a.jpg", "b.jpg")
    files = {"all": listing.find_files(base, "**")}
    with caplog.at_level(logging.WARNING, "absl"):
        assert listing.class_names(files, "folders", base) == {}
    assert "1 images are not in a class subfolder" in caplog.text
    caplog.clear()
    assert listing.class_names({"all": files["all"][:1]}, "folders", base) == {}
    assert not caplog.text  # Classes were not meant.


def test_labels_come_from_a_csv_file(tmp_path):
    csv = tmp_path / "labels.csv"
    csv.write_text('\ufefflabel,path\n cat ,x/a.jpg\n"dog, wet",b.jpg\nbird,gone.jpg\n')
    files = {"all": image_files(["x/a.jpg", "b.jpg"])}
    assert listing.class_names(files, str(csv), "/data") == {"x/a.jpg": "cat", "b.jpg": "dog, wet"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"path,label\na.jpg,cat\n", "lack 1 of 2 images (such as b.jpg)"),
        (b"path,label\na.jpg,cat\nb.jpg\n", "lack 1 of 2 images (such as b.jpg)"),
        (b"file,class\na.jpg,cat\nb.jpg,dog\n", "columns path and label"),
        (b"path,label\na.jpg,\xe9\nb.jpg,dog\n", "UTF-8"),
        (None, "No such file"),
    ],
)
def test_a_bad_csv_file_is_a_sentence(tmp_path, content, said):
    csv = tmp_path / "labels.csv"
    if content is not None:
        csv.write_bytes(content)
    with pytest.raises(UserError) as error:
        listing.class_names({"all": image_files(["a.jpg", "b.jpg"])}, str(csv), "/data")
    assert said in sentence_of(error) and str(csv) in str(error.value)


def test_splits_are_drawn_by_the_hash_of_the_key_alone():
    for key in ("a.jpg", "train/cat/0000.jpg", "Gr\u00fc\u00dfe/\udcff.png"):
        number = int.from_bytes(hashlib.sha256(os.fsencode(key)).digest(), "big") % 10
        expected = "train" if number < 7 else "eval" if number < 9 else "test"
        assert listing.split_of(key, {"train": 7, "eval": 2, "test": 1}) == expected


def test_splits_are_in_proportion_to_their_buckets():
    buckets = {"train": 7, "eval": 2, "test": 1}
    names = [f"{number % 10}/{number:05d}.jpg" for number in range(20_000)]
    drawn = Counter(listing.split_of(name, buckets) for name in names)
    chi_square = sum(
        (drawn[name] - 2000 * size) ** 2 / (2000 * size) for name, size in buckets.items()
    )
    assert chi_square < 13.8  # Two degrees of freedom: p = 0.001.


def test_the_plan_holds_every_image_once_in_its_split_with_its_label():
    names = [f"{'dog' if number % 3 else 'cat'}/{number:04d}.jpg" for number in range(5000)]
    files = {"all": image_files(names)}
    classes = {name: name[:3] for name in names}
    buckets = {"train": 4, "eval": 1}
    shards = listing.plan(files, buckets, classes)
    images = [(shard.split, *image) for shard in shards for image in shard.images]
    assert sorted(images) == sorted(
        (listing.split_of(n, buckets), f"/data/{n}", n, ("cat", "dog").index(n[:3]), n[:3])
        for n in names
    )
    for split in buckets:
        numbers = [(shard.index, shard.count) for shard in shards if shard.split == split]
        assert numbers == [(index, len(numbers)) for index in range(len(numbers))]
    assert len({(shard.split, shard.name) for shard in shards}) == len(shards)
    # A shard is a fair sample: a third of it is cats, within five standard deviations.
    for shard in shards:
        cats = sum(text == "cat" for *_, text in shard.images) / len(shard.images)
        assert abs(cats - 1 / 3) < 5 * (2 / 9 / len(shard.images)) ** 0.5


def test_shards_are_bounded_in_number_and_bytes():
    many = listing.plan({"all": image_files(map("{}.jpg".format, range(5000)))}, {}, {})
    assert [len(shard.images) for shard in many] == [2048, 2048, 904]
    large = listing.plan({"all": image_files(map("{}.png".format, range(100)), 7 << 20)}, {}, {})
    assert max(len(shard.images) for shard in large) == 64 // 7
    huge = listing.plan({"all": image_files(["a.bmp", "b.bmp"], 1 << 30)}, {}, {})
    assert [len(shard.images) for shard in huge] == [1, 1]


def test_the_plan_does_not_depend_on_the_order_of_the_listing():
    names = [f"{number}.jpg" for number in range(3000)]
    files = image_files([*names, "x.tfrecord", "y.tfrecord", "z.tfrecord.gz"])
    shuffled = random.Random(0).sample(files, len(files))
    for buckets in ({}, {"train": 9, "eval": 1}):
        assert listing.plan({"a": files}, buckets, {}) == listing.plan({"a": shuffled}, buckets, {})


def test_input_splits_stay_as_they_are():
    files = {"train": image_files(["a.jpg", "b.jpg"]), "eval": image_files(["c.jpg"])}
    shards = listing.plan(files, {}, {})
    assert {shard.split: sorted(i[1] for i in shard.images) for shard in shards} == {
        "train": ["a.jpg", "b.jpg"],
        "eval": ["c.jpg"],
    }
    assert all(image[2:] == (-1, "") for shard in shards for image in shard.images)


def test_record_files_go_whole_to_each_split_that_takes_its_share_of_them():
    shards = listing.plan({"all": image_files(["x.tfrecord"])}, {"train": 9, "eval": 1}, {})
    assert [(s.split, s.records, s.buckets) for s in shards] == [
        (split, "/data/x.tfrecord", {"train": 9, "eval": 1}) for split in ("train", "eval")
    ]


@pytest.mark.parametrize(
    "shard",
    [
        Shard("train", 0, 2, (("/d/\udcff\n.jpg", "\udcff\n.jpg", 3, "Gr\u00fc\u00dfe"),)),
        Shard("eval", 1, 2, records="/d/x.tfrecord", buckets={"train": 9, "eval": 1}),
    ],
)
def test_shards_survive_being_a_line_of_text(shard):
    line = shard.to_json()
    assert "\n" not in line and line.isascii() and json.loads(line)
    assert Shard.from_json(line) == shard
