"""Two-view batches and evaluation batches, from real files of every format, intact and corrupt."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from pictures import encoded, photo
from PIL import Image

from byol_tf import data
from byol_tf.configs import defaults
from byol_tf.errors import UserError
from byol_tf.images.preprocessing import Preprocessing
from byol_tf.sources import Shard, open_source

SIZE = 8
WHOLE = {"crop_area": (1.0, 1.0), "crop_aspect": (1.0, 1.0)}
PLAIN = {f"{name}_prob": 0.0 for name in ("flip", "jitter", "grayscale", "blur", "solarize")}


def config(batch_size=4, run_on="device", **overrides):
    """Returns the recipes' defaults at a tiny size, changed by `view_1={...}` or `data={...}`."""
    result = defaults.get_config()
    result.update(batch_size=batch_size, image_size=SIZE, epochs=1)
    result.augment.run_on = run_on
    result.data.max_corrupt_fraction = 0.5
    views = {name: overrides.pop(name) for name in ("view_1", "view_2") if name in overrides}
    result.augment.update(views)
    result.update(overrides)
    return result


def gray(number: int) -> bytes:
    """Returns a PNG of one grey level, by which any crop of it identifies the image."""
    return encoded(Image.new("RGB", (12, 10), (number,) * 3), "PNG")


def textured(size=(40, 30), seed=0) -> Image.Image:
    return Image.fromarray(photo(size[1], size[0], seed))


def write_folder(folder, contents: dict[str, bytes]) -> str:
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return str(folder)


def write_tfrecords(folder, contents: list[bytes], num_files=3) -> str:
    """Writes records; image i has label i % 2 and key i."""
    folder.mkdir(exist_ok=True)
    for shard in range(num_files):
        with tf.io.TFRecordWriter(str(folder / f"images.tfrecord-{shard}")) as writer:
            for number in range(shard, len(contents), num_files):
                values = {
                    "image/encoded": {"bytes_list": {"value": [contents[number]]}},
                    "image/key": {"bytes_list": {"value": [b"%d" % number]}},
                    "image/label": {"int64_list": {"value": [number % 2]}},
                }
                features = {name: tf.train.Feature(**value) for name, value in values.items()}
                example = tf.train.Example(features=tf.train.Features(feature=features))
                writer.write(example.SerializeToString())
    return str(folder)


@pytest.fixture(params=["folder", "tfrecord"])
def ten(request, tmp_path) -> str:
    """Ten images; image i has grey level 20 i and label i % 2."""
    if request.param == "tfrecord":
        return write_tfrecords(tmp_path / "records", [gray(20 * i) for i in range(10)])
    names = {f"{'ab'[i % 2]}/{i}.png": gray(20 * i) for i in range(10)}
    return write_folder(tmp_path, names)


def batches(dataset, count) -> list[tuple]:
    """Returns `(view_1, view_2, labels)` of the first batches."""
    return [
        (view_1, view_2, labels)
        for (view_1, view_2), labels in dataset.take(count).as_numpy_iterator()
    ]


def numbers(crops) -> list[int]:
    """Returns which of the ten images each crop in [0, 1] shows."""
    return np.round(crops.mean(axis=(1, 2, 3)) * 255 / 20).astype(int).tolist()


def assert_same_batches(actual, expected):
    assert len(actual) == len(expected)
    for actual_batch, expected_batch in zip(actual, expected, strict=True):
        for actual_part, expected_part in zip(actual_batch, expected_batch, strict=True):
            np.testing.assert_array_equal(actual_part, expected_part)


def test_each_epoch_shows_every_image_once_in_an_order_of_its_own(ten):
    seen = []
    # Ten epochs; 4 does not divide 10.
    for view_1, view_2, labels in batches(data.two_view_dataset(ten, config()), 25):
        assert numbers(view_1) == numbers(view_2)
        assert labels.tolist() == [number % 2 for number in numbers(view_1)]
        seen += numbers(view_1)
    epochs = [seen[start : start + 10] for start in range(0, 100, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 10


def test_a_folders_epochs_are_uniform_permutations(tmp_path):
    folder = write_folder(tmp_path, {f"{i}.png": gray(20 * i) for i in range(4)})
    source = open_source(folder)
    names = source.shuffled(0, Shard(4, 0, 4), 0, 4, 1).take(2400)
    orders = [b"".join(name).decode() for _, name, _, _ in names.as_numpy_iterator()]
    _, counts = np.unique(orders, return_counts=True)
    assert len(counts) == 24  # 4!
    # Chi-square of 23 degrees of freedom: above 49.7 once in a thousand seeds.
    assert np.sum((counts - 100.0) ** 2 / 100.0) < 49.7


def test_starting_at_a_step_gives_the_tail_bit_by_bit(ten):
    settings = config(data={"shuffle_buffer": 5})
    all_steps = batches(data.two_view_dataset(ten, settings), 8)
    tail = data.two_view_dataset(ten, settings, start_step=3)  # Within the second epoch.
    assert_same_batches(batches(tail, 5), all_steps[3:])


def test_views_made_on_the_host_resume_bit_by_bit(images_dir):
    source = open_source(str(images_dir / "train"))
    all_steps = batches(data.two_view_dataset(source, config(run_on="host")), 4)
    tail = data.two_view_dataset(source, config(run_on="host"), start_step=3)
    assert_same_batches(batches(tail, 1), all_steps[3:])


def test_workers_together_make_the_batches_of_one(ten):
    settings = config(batch_size=8)

    def replica_batches(worker):
        context = tf.distribute.InputContext(2, worker, num_replicas_in_sync=4)
        dataset = data.two_view_dataset(ten, settings, start_step=1, input_context=context)
        return batches(dataset, 6)  # Three steps of its two replicas.

    first, second = replica_batches(0), replica_batches(1)
    assert first[0][0].shape == (2, SIZE, SIZE, 3)
    in_order = [first[i : i + 2] + second[i : i + 2] for i in (0, 2, 4)]
    together = [tuple(map(np.concatenate, zip(*parts, strict=True))) for parts in in_order]
    alone = data.two_view_dataset(ten, settings, start_step=1)
    assert_same_batches(together, batches(alone, 3))


def test_views_depend_on_the_position_not_on_the_batch(tmp_path):
    images = {f"{i}.jpg": encoded(textured(seed=i), "JPEG") for i in range(5)}
    source = open_source(write_folder(tmp_path, {f"a/{k}": v for k, v in images.items()}))
    twelve = batches(data.two_view_dataset(source, config(batch_size=12)), 1)
    fours = batches(data.two_view_dataset(source, config(batch_size=4)), 3)
    joined = tuple(np.concatenate(parts) for parts in zip(*fours, strict=True))
    assert_same_batches([joined], twelve)


def test_seed_decides_the_views_and_the_programs_seed_does_not(tmp_path):
    source = open_source(write_tfrecords(tmp_path / "records", [gray(20 * i) for i in range(10)]))

    def views(seed, program_seed):
        tf.random.set_seed(program_seed)
        return batches(data.two_view_dataset(source, config(seed=seed)), 3)

    views_1 = views(seed=1, program_seed=1)
    assert_same_batches(views(seed=1, program_seed=2), views_1)
    assert not np.array_equal(views(seed=2, program_seed=1)[0][0], views_1[0][0])


def test_views_differ_from_one_another_and_from_epoch_to_epoch(tmp_path):
    folder = write_folder(tmp_path, {"a/0.jpg": encoded(textured((400, 300)), "JPEG")})
    found = batches(data.two_view_dataset(folder, config(1)), 4)
    assert len({view.tobytes() for view_1, view_2, _ in found for view in (view_1, view_2)}) == 8


def test_host_views_are_augmented_each_by_its_own_distribution_and_normalised(tmp_path):
    pixels = np.asarray(textured((SIZE, SIZE)))
    folder = write_folder(tmp_path, {"a/0.png": encoded(Image.fromarray(pixels), "PNG")})
    view_1, view_2 = WHOLE | PLAIN, WHOLE | PLAIN | {"solarize_prob": 1.0}
    settings = config(1, run_on="host", view_1=view_1, view_2=view_2)
    settings.normalize.update(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    ((view_1, view_2, _),) = batches(data.two_view_dataset(folder, settings), 1)
    unit = pixels / 255.0
    expected = (unit - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.4]
    np.testing.assert_allclose(view_1[0], expected, atol=1e-5)
    solarized = np.where(unit < 0.5, unit, 1 - unit)
    expected = (solarized - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.4]
    np.testing.assert_allclose(view_2[0], expected, atol=1e-5)


def test_device_gets_mere_crops(tmp_path):
    pixels = np.asarray(textured((SIZE, SIZE)))
    folder = write_folder(tmp_path, {"a/0.png": encoded(Image.fromarray(pixels), "PNG")})
    one_pixel = WHOLE | {"crop_area": (1 / SIZE**2, 1 / SIZE**2)}
    settings = config(1, run_on="device", view_1=WHOLE, view_2=one_pixel)
    ((view_1, view_2, _),) = batches(data.two_view_dataset(folder, settings), 1)
    np.testing.assert_allclose(view_1[0], pixels / 255.0, atol=1e-6)
    assert np.ptp(view_2[0], axis=(0, 1)).max() < 1e-6
    assert np.abs(pixels / 255.0 - view_2[0, 0, 0]).sum(axis=-1).min() < 1e-6


@pytest.mark.parametrize("run_on", ["host", "device"])
def test_small_crops_follow_the_two_views_and_leave_them_as_they_are(tmp_path, run_on):
    settings = config(2, run_on)
    # Colours of half resolution, whose decoding depends on the part that is decoded.
    jpegs = {
        f"a/{i}.jpg": encoded(textured((60, 50), seed=i), "JPEG", subsampling=2) for i in range(4)
    }
    folder = write_folder(tmp_path, jpegs)
    plain = batches(data.two_view_dataset(folder, settings), 2)
    settings.augment.update(small_crops=2, small_crop_size=5)
    dataset = data.two_view_dataset(folder, settings)
    found = list(dataset.take(2).as_numpy_iterator())
    assert_same_batches([(*views[:2], labels) for views, labels in found], plain)
    small = [crop for views, _ in found for crop in views[2:]]
    assert [crop.shape for crop in small] == [(2, 5, 5, 3)] * 4
    assert len({crop.tobytes() for batch in small for crop in batch}) == 8


def test_small_crops_show_the_image_of_the_views_and_resume_bit_by_bit(tmp_path):
    ten = write_tfrecords(tmp_path / "records", [gray(20 * i) for i in range(10)])
    settings = config()
    settings.augment.update(small_crops=1, small_crop_size=4)
    found = list(data.two_view_dataset(ten, settings).take(4).as_numpy_iterator())
    for (view_1, _, small), _ in found:
        assert numbers(small) == numbers(view_1)
    tail = data.two_view_dataset(ten, settings, start_step=3)
    assert_same_batches([(*views, labels) for views, labels in tail.take(1)],
                        [(*views, labels) for views, labels in found[3:]])  # fmt: skip


def test_structure_and_static_shapes(tmp_path):
    view = tf.TensorSpec((3, SIZE, SIZE, 3), tf.float32)
    labelled = write_folder(tmp_path / "labelled", {"a/0.png": gray(0)})
    spec = data.two_view_dataset(labelled, config(3, "device")).element_spec
    assert spec == ((view, view), tf.TensorSpec((3,), tf.int32))
    unlabelled = write_folder(tmp_path / "unlabelled", {"0.png": gray(0)})
    spec = data.two_view_dataset(unlabelled, config(3, "host")).element_spec
    assert spec == ((view, view),)


def test_tfrecords_give_what_the_folder_gives(tmp_path):
    contents = [encoded(textured(seed=i), "JPEG") for i in range(6)]
    records = write_tfrecords(tmp_path / "records", contents)
    named = {f"{'ab'[i % 2]}/{i}.jpg": content for i, content in enumerate(contents)}
    folder = write_folder(tmp_path / "folder", named)

    def by_number(source):
        found = data.evaluation_dataset(source, Preprocessing(SIZE), 4).unbatch()
        return {
            int(key.removesuffix(b".jpg")[-1:]): (image, label)
            for image, label, key in found.as_numpy_iterator()
        }

    from_records, from_folder = by_number(records), by_number(folder)
    assert from_records.keys() == from_folder.keys() == set(range(6))
    for number, (image, label) in from_folder.items():
        np.testing.assert_array_equal(image, from_records[number][0])
        assert label == from_records[number][1] == number % 2


def odd_formats() -> dict[str, bytes]:
    """Returns one 40x30 picture in many formats."""
    picture = textured()
    exif = Image.Exif()
    exif[0x0112] = 6  # Stored lying on its side.
    garbage = b"Exif\0\0II*\0\xff\xff\xff\xff"
    return {
        "rgb.jpg": encoded(picture, "JPEG", quality=95),
        "progressive.jpg": encoded(picture, "JPEG", quality=95, progressive=True),
        "grey.jpg": encoded(picture.convert("L"), "JPEG"),
        "cmyk.jpg": encoded(picture.convert("CMYK"), "JPEG"),
        "orientation.jpg": encoded(picture, "JPEG", quality=95, exif=exif),
        "garbage_exif.jpg": encoded(picture, "JPEG", quality=95, exif=garbage),
        "jpeg_in_truth.png": encoded(picture, "JPEG", quality=95),
        "rgb.png": encoded(picture, "PNG"),
        "rgba.png": encoded(picture.convert("RGBA"), "PNG"),
        "palette.png": encoded(picture.quantize(64), "PNG"),
        "grey.png": encoded(picture.convert("L"), "PNG"),
        "one_bit.png": encoded(picture.convert("1"), "PNG"),
        "still.gif": encoded(picture, "GIF"),
        "moving.gif": encoded(picture, "GIF", save_all=True, append_images=[textured(seed=1)]),
        "rgb.bmp": encoded(picture, "BMP"),
    }


def test_every_format_is_read_and_none_counts_as_corrupt(tmp_path):
    contents = odd_formats()
    source = open_source(write_folder(tmp_path, {f"a/{name}": c for name, c in contents.items()}))
    settings = config(len(contents), view_1=WHOLE, view_2=WHOLE)
    ((view_1, _, _),) = batches(data.two_view_dataset(source, settings), 1)
    assert np.isfinite(view_1).all() and view_1.std(axis=(1, 2, 3)).min() > 0.01
    images = data.evaluation_dataset(source, Preprocessing(SIZE, mean=(0,) * 3, std=(1,) * 3), 32)
    ((images, _, keys),) = images.as_numpy_iterator()
    assert sorted(key.decode() for key in keys) == sorted(f"a/{name}" for name in contents)
    assert not source.corrupt.reasons
    # Every format has the mean colour of the picture.
    expected = np.asarray(textured().crop((7, 2, 33, 28)), float).mean(axis=(0, 1)) / 255
    for color, key in zip(images.mean(axis=(1, 2)), keys, strict=True):
        if b"grey" not in key and b"one_bit" not in key:
            np.testing.assert_allclose(color, expected, atol=0.06, err_msg=str(key))


CORRUPT = {
    "truncated.jpg": encoded(textured((200, 200)), "JPEG")[:1500],
    "truncated.png": encoded(textured(), "PNG")[:200],
    "empty.jpg": b"",
    "text.jpg": b"this is not a photo",
}


@pytest.fixture
def partly_corrupt(tmp_path):
    """Six good images, grey levels 0, 20, ... 100, and four corrupt ones."""
    good = {f"a/good{i}.png": gray(20 * i) for i in range(6)}
    corrupt = {f"b/{name}": content for name, content in CORRUPT.items()}
    return open_source(write_folder(tmp_path, good | corrupt))


def test_corrupt_files_are_counted_once_and_named_in_the_log(partly_corrupt, caplog):
    batches(data.two_view_dataset(partly_corrupt, config()), 15)  # Six epochs.
    assert set(partly_corrupt.corrupt.reasons) == {f"b/{name}" for name in CORRUPT}
    for name in CORRUPT:
        assert caplog.text.count(f"corrupt image b/{name}") == 1
    assert "4 of 10 so far" in caplog.text and "5 of 10" not in caplog.text


def test_a_corrupt_image_gives_its_place_to_a_good_one_of_its_batch(partly_corrupt, tmp_path):
    # The same set with the corrupt files repaired shows which image belongs where.
    repaired = {f"b/{name}": gray(200 + 5 * i) for i, name in enumerate(CORRUPT)}
    actual = [
        np.round(view_1.mean(axis=(1, 2, 3)) * 255)
        for view_1, _, _ in batches(data.two_view_dataset(partly_corrupt, config(5)), 8)
    ]
    write_folder(tmp_path, repaired)
    for path in repaired:  # A PNG named .jpg is still a PNG.
        assert (tmp_path / path).read_bytes().startswith(b"\x89PNG")
    expected = [
        np.round(view_1.mean(axis=(1, 2, 3)) * 255)
        for view_1, _, _ in batches(data.two_view_dataset(str(tmp_path), config(5)), 8)
    ]
    replaced = 0
    for batch, positions in zip(actual, expected, strict=True):
        good = positions < 200
        np.testing.assert_array_equal(batch[good], positions[good])
        assert set(batch[~good]) <= set(positions[good])
        replaced += np.sum(~good)
    assert replaced == 4 * 4


def test_a_corrupt_records_label_is_replaced_with_its_image(tmp_path):
    contents = [gray(20 * i) for i in range(9)] + [b"corrupt"]
    source = open_source(write_tfrecords(tmp_path / "records", contents))
    for view_1, _, labels in batches(data.two_view_dataset(source, config(5)), 4):
        assert labels.tolist() == [number % 2 for number in numbers(view_1)]
    (name,) = source.corrupt.reasons
    assert name == f"{tmp_path}/records/images.tfrecord-0#3"  # Number 9 = 3 * 3 + 0.


def test_too_many_corrupt_files_end_fit_with_a_sentence(partly_corrupt):
    inputs = keras.Input((SIZE, SIZE, 3))
    model = keras.Model([inputs, keras.Input((SIZE, SIZE, 3))], keras.layers.Dense(1)(inputs))
    model.compile(loss="mse")
    dataset = data.two_view_dataset(partly_corrupt, config(data={"max_corrupt_fraction": 0.2}))
    dataset = dataset.map(lambda views, _: (views, tf.zeros([4])))
    says = "^3 of the 10 images .* than max_corrupt_fraction=0.2"
    with pytest.raises(UserError, match=says), data.clean_errors(partly_corrupt):
        model.fit(dataset, steps_per_epoch=5, verbose=0)


def test_one_bad_file_never_ends_a_small_run(tmp_path):
    good = {f"{i}.png": gray(20 * i) for i in range(4)}
    folder = write_folder(tmp_path, good | {"text.jpg": CORRUPT["text.jpg"]})
    dataset = data.two_view_dataset(folder, config(data={"max_corrupt_fraction": 0.01}))
    assert len(list(dataset.take(5))) == 5


def test_a_batch_of_corrupt_files_only_ends_the_run(tmp_path):
    source = open_source(write_folder(tmp_path, CORRUPT))
    dataset = data.two_view_dataset(source, config(2, data={"max_corrupt_fraction": 1.0}))
    with pytest.raises(UserError, match="all images of a batch"), data.clean_errors(source):
        list(dataset.take(1))


def test_clean_errors_leaves_other_errors_alone(partly_corrupt):
    with pytest.raises(tf.errors.InvalidArgumentError), data.clean_errors(partly_corrupt):
        tf.io.decode_png(b"")


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_evaluation_shows_every_good_image_once_in_order(partly_corrupt, batch_size):
    found = list(
        data.evaluation_dataset(partly_corrupt, Preprocessing(SIZE), batch_size).as_numpy_iterator()
    )
    assert [len(labels) for _, labels, _ in found[:-1]] == [batch_size] * (len(found) - 1)
    images, labels, keys = (np.concatenate(parts) for parts in zip(*found, strict=True))
    assert keys.tolist() == [b"a/good%d.png" % i for i in range(6)]
    assert labels.tolist() == [0] * 6
    contents = tf.constant([gray(20 * i) for i in range(6)])
    np.testing.assert_allclose(images, Preprocessing(SIZE).from_bytes(contents), atol=1e-6)
    assert set(partly_corrupt.corrupt.reasons) == {f"b/{name}" for name in CORRUPT}


def test_evaluation_passes_over_a_chunk_without_a_good_image(tmp_path):
    contents = {f"{i:03d}.png": b"corrupt" for i in range(70)} | {"x.png": gray(20)}
    source = open_source(write_folder(tmp_path, contents))
    dataset = data.evaluation_dataset(source, Preprocessing(SIZE), 8)
    ((_, labels, keys),) = dataset.as_numpy_iterator()
    assert keys.tolist() == [b"x.png"] and labels.tolist() == [-1]


def test_evaluation_limit_spreads_over_the_classes(ten):
    dataset = data.evaluation_dataset(ten, Preprocessing(SIZE), 8, limit=4)
    ((_, labels, keys),) = dataset.as_numpy_iterator()
    assert len(set(keys)) == 4 and set(labels) == {0, 1}


def test_augmented_images_are_cropped_and_flipped_reproducibly(tmp_path):
    # Left half dark, right half bright: a flip shows.
    half = np.zeros((32, 32, 3), np.uint8)
    half[:, 16:] = 255
    content = encoded(Image.fromarray(half), "PNG")
    folder = write_folder(tmp_path, {f"{i:02d}.png": content for i in range(40)})

    def images(seed):
        dataset = data.augmented_dataset(folder, Preprocessing(SIZE), 40, seed)
        ((images, _, _),) = dataset.as_numpy_iterator()
        return images

    first = images(0)
    np.testing.assert_array_equal(first, images(0))
    assert len({image.tobytes() for image in first}) > 15
    assert not np.array_equal(first, images(1))
    brighter_on_the_left = first[:, :, 0].mean(axis=(1, 2)) > first[:, :, -1].mean(axis=(1, 2))
    assert 8 <= brighter_on_the_left.sum() <= 32


def test_augmented_images_come_in_the_order_of_evaluation_without_corrupt_ones(partly_corrupt):
    plain = data.evaluation_dataset(partly_corrupt, Preprocessing(SIZE), 4, limit=8)
    augmented = data.augmented_dataset(partly_corrupt, Preprocessing(SIZE), 4, 0, limit=8)
    for (images, *rest), (plain_images, *plain_rest) in zip(augmented, plain, strict=True):
        # Every crop of a grey image is equal.
        np.testing.assert_allclose(images, plain_images, atol=1e-5)
        assert [part.numpy().tolist() for part in rest] == [p.numpy().tolist() for p in plain_rest]
    with pytest.raises(UserError, match="batch size is 0"):
        data.augmented_dataset(partly_corrupt, Preprocessing(SIZE), 0, seed=0)


@pytest.mark.parametrize(
    "overrides, says",
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"image_size": 0}, "image_size is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"run_on": "gpu"}, "augment.run_on is 'gpu'"),
        ({"augment": {"place": "device"}}, "augment.place is now called augment.run_on; rename"),
        ({"data": {"shuffle_buffer": 0}}, "data.shuffle_buffer is 0"),
        ({"data": {"max_corrupt_fraction": 1.5}}, "data.max_corrupt_fraction is 1.5"),
        ({"view_1": {"flip_prob": 2.0}}, "flip_prob"),
    ],
)
def test_a_bad_config_is_a_sentence(tmp_path, overrides, says):
    with pytest.raises(UserError, match=says):
        data.two_view_dataset(write_folder(tmp_path, {"0.png": gray(0)}), config(**overrides))


def test_a_bad_start_step_batch_or_share_is_a_sentence(tmp_path):
    folder = write_folder(tmp_path, {"0.png": gray(0)})
    with pytest.raises(UserError, match="start_step is -1"):
        data.two_view_dataset(folder, config(), start_step=-1)
    with pytest.raises(UserError, match="batch size is 0"):
        data.evaluation_dataset(folder, Preprocessing(SIZE), 0)
    with pytest.raises(UserError, match="batch_size 4 cannot be shared by 3 replicas"):
        data.two_view_dataset(folder, config(), input_context=tf.distribute.InputContext(1, 0, 3))


def test_fewer_images_than_a_batch_warn(tmp_path, caplog):
    folder = write_folder(tmp_path, {"0.png": gray(0)})
    data.two_view_dataset(folder, config(batch_size=2))
    assert "there are 1 images, fewer than batch_size 2" in caplog.text
