import contextlib
import functools
import importlib.util
import io
import json

import ml_collections
import numpy as np
import pytest
import scenes
import tensorflow as tf
from PIL import Image
from pycocotools.coco import COCO

from byol_tf.errors import UserError
from byol_tf.evaluation.dense import anchors, detection, retinanet
from byol_tf.evaluation.dense.boxes import BoxData, BoxedImage
from byol_tf.evaluation.dense.letterbox import (
    evaluation_batches,
    fitted_size,
    from_fitted,
    to_fitted,
    training_batches,
)
from byol_tf.evaluation.evaluated_encoder import EvaluatedEncoder
from byol_tf.evaluation.splits import Splits
from byol_tf.images.preprocessing import Preprocessing
from byol_tf.models import networks

PREPROCESSING = Preprocessing(32, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
RNG = np.random.default_rng(0)


def config(**changes):
    values = {
        "steps": 120,
        "batch_size": 4,
        "image_size": 64,
        "learning_rate": 0.04,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "warmup": 1 / 24,
        "decay_at": (18 / 24, 22 / 24),
    }
    return ml_collections.ConfigDict(values | changes)


@functools.cache
def encoder_of(stem):
    return networks.resnet(18, 0.25, 32, stem)


def encoder():
    return encoder_of("imagenet")


def pretrained(build=encoder):
    return EvaluatedEncoder("Random encoder", None, PREPROCESSING, "0", build)


def boxed(width, height, boxes=(), classes=None, crowd=(), path="a.png"):
    n = len(boxes)
    return BoxedImage(
        path,
        str(path),
        width,
        height,
        np.array(boxes, float).reshape(n, 4),
        np.arange(n, dtype=np.int32) if classes is None else np.array(classes, np.int32),
        np.zeros(n, bool),
        np.isin(np.arange(n), crowd),
    )


def dataset(*images):
    return BoxData("boxes", ("cat", "dog", "eel"), (4, 9, 11), images)


@pytest.fixture
def rectangles(tmp_path):
    """Black images of several shapes; class k's box is filled with colour channel k."""
    images = []
    for index, (width, height) in enumerate([(40, 24), (24, 40), (64, 64), (90, 31)]):
        pixels = np.zeros((height, width, 3), np.uint8)
        boxes = [[2, 3, width // 2, height - 5], [width // 2 + 2, 1, width - 1, height // 2]]
        for channel, (xmin, ymin, xmax, ymax) in enumerate(boxes):
            pixels[ymin:ymax, xmin:xmax, channel] = 255
        path = tmp_path / f"{index}.png"
        Image.fromarray(pixels).save(path)
        # The third is a crowd; a detector would look for it in blue, which no image has.
        images.append(boxed(width, height, [*boxes, [0, 0, 9, 9]], crowd=[2], path=path))
    Image.new("RGB", (30, 30)).save(tmp_path / "empty.png")
    return dataset(*images, boxed(30, 30, path=tmp_path / "empty.png"))


def test_the_longer_side_fits_and_boxes_go_with_it():
    image = boxed(50, 20)
    assert fitted_size(image, 100) == (100, 40)
    assert to_fitted(np.array([[5.0, 10, 50, 20]]), image, 100).tolist() == [[10, 20, 100, 40]]
    assert fitted_size(boxed(1, 500), 64) == (1, 64), "a side is never 0"
    # 20 / 3 is rounded, and boxes follow the pixels.
    assert fitted_size(boxed(30, 10), 20) == (20, 7)
    assert to_fitted(np.array([[0.0, 0, 30, 10]]), boxed(30, 10), 20).tolist() == [[0, 0, 20, 7]]


def test_boxes_come_back_to_where_they_were():
    image = boxed(333, 500)
    corners = RNG.uniform(0, 300, size=(50, 2))
    boxes = np.concatenate([corners, corners + RNG.uniform(1, 33, size=(50, 2))], axis=1)
    np.testing.assert_allclose(from_fitted(to_fitted(boxes, image, 64), image, 64), boxes)
    # The padding at the right of a tall image is not part of it.
    assert from_fitted(np.array([[-3.0, 2, 60, 70]]), image, 64)[0].tolist()[0] == 0
    assert from_fitted(np.array([[0.0, 0, 60, 64]]), image, 64)[0].tolist() == [0, 0, 333, 500]


def unnormalized(images):
    return images.numpy() * PREPROCESSING.std + PREPROCESSING.mean


def test_training_boxes_cover_their_objects_also_mirrored(rectangles):
    mirrored = set()
    for images, labels in training_batches(rectangles, PREPROCESSING, 64, 5, 6, seed=0):
        assert images.shape == (5, 64, 64, 3)
        for pixels, boxes, classes in zip(
            unnormalized(images), labels["boxes"].numpy(), labels["classes"].numpy(), strict=True
        ):
            assert set(classes) <= {-1, 0, 1}, "crowds are left out"
            assert (boxes[classes == -1] == -1).all() and (classes == -1).any()
            for (xmin, ymin, xmax, ymax), label in zip(boxes, classes, strict=True):
                if label == -1:
                    continue
                columns, rows = np.arange(64) + 0.5, np.arange(64)[:, np.newaxis] + 0.5
                inside = (xmin < columns) & (columns < xmax) & (ymin < rows) & (rows < ymax)
                coloured = (pixels[..., int(label)] > 0.5) & (pixels[..., 2] < 0.3)
                assert (inside & coloured).sum() / (inside | coloured).sum() > 0.85
            if 0 in classes and 1 in classes:
                mirrored.add(bool(boxes[classes == 0][0, 0] > boxes[classes == 1][0, 0]))
    assert mirrored == {False, True}


def test_the_filling_is_the_mean_colour(rectangles):
    (images,) = evaluation_batches(rectangles, PREPROCESSING, 64, 8)
    assert images.shape == (5, 64, 64, 3)
    assert not images[0, 39:].numpy().any() and images[0, :38].numpy().any(axis=-1).all()
    assert not images[1, :, 39:].numpy().any()


def test_the_seed_decides_order_and_mirrors_and_an_epoch_has_all_images(rectangles):
    def batches(seed):
        data = training_batches(rectangles, PREPROCESSING, 32, 5, 2, seed)
        return [images.numpy() for images, _ in data]

    first, again, other = batches(0), batches(0), batches(1)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    for batch in first:
        # The amount of padding tells the images apart; two are squares.
        filled = [int((pixels == 0).all(axis=-1).sum()) for pixels in batch]
        assert sorted(filled) == sorted([0, 0, 32 * 13, 32 * 13, 32 * 21])


def test_few_images_fill_a_large_batch(rectangles):
    ((images, labels),) = training_batches(rectangles, PREPROCESSING, 32, 12, 1, 0)
    assert images.shape[0] == labels["boxes"].shape[0] == 12


@functools.cache
def detector(stem, image_size):
    return retinanet.RetinaNet(encoder_of(stem), 3, image_size)


@pytest.mark.parametrize(("stem", "stride"), [("imagenet", 8), ("small", 2)])
def test_anchors_lie_on_the_cells_of_their_maps(stem, stride):
    # 96 / 32 = 3 cells at P5, 2 at P6, 1 at P7: sizes that do not halve exactly.
    size = 96 if stem == "imagenet" else 32
    model = detector(stem, size)
    raw = model(tf.zeros([1, size, size, 3]))
    sides = [-(-size // (stride * 2**level)) for level in range(5)]
    counts = [9 * side**2 for side in sides]
    assert [model.get_layer(f"box_p{level}").output.shape[1] for level in range(3, 8)] == counts
    assert model.anchors.shape == (sum(counts), 4) and raw.shape == (1, sum(counts), 4 + 3)
    # Except at the border, where they are clipped, anchors are centred on their cell.
    finest = model.anchors[: counts[0]].reshape(sides[0], sides[0], 9, 4)
    row, column = sides[0] // 2 - 1, sides[0] // 2
    smallest = finest[row, column, 1]
    centre = (smallest[:2] + smallest[2:]) / 2
    np.testing.assert_allclose(centre, [(column + 0.5) * stride, (row + 0.5) * stride])
    np.testing.assert_allclose(smallest[2:] - smallest[:2], 4 * stride)


def test_the_detector_starts_with_the_encoders_weights_and_trains_all_of_them():
    model = detector("imagenet", 96)
    for layer in encoder().layers[:-1]:
        copied = model.get_layer(layer.name)
        assert len(copied.trainable_weights) == len(layer.trainable_weights)
        for weight, expected in zip(copied.get_weights(), layer.get_weights(), strict=True):
            np.testing.assert_array_equal(weight, expected)


def test_a_class_starts_at_the_papers_prior():
    # With zeros as maps only the biases are left.
    logits = detector("imagenet", 96)(tf.zeros([1, 96, 96, 3]))[..., 4:]
    np.testing.assert_allclose(tf.sigmoid(logits), 0.01, rtol=1e-4)


def test_an_anchor_learns_the_box_that_it_overlaps_most():
    boxes = np.float32([[0, 0, 10, 10], [0, 0, 10, 6], [-1, -1, -1, -1]])
    cases = {
        (0, 0, 10, 9): 7,  # IoU 0.9 with the first, 0.67 with the second.
        (0, 0, 10, 5.5): 8,  # 0.55 and 0.92.
        (0, 0, 10, 15): 7,  # 0.67 and 0.4.
        (0, 0, 10, 22.3): anchors.IGNORED,  # 0.448 and 0.27.
        (0, 0, 10, 26): anchors.BACKGROUND,  # 0.385 and 0.23.
        (50, 50, 60, 60): anchors.BACKGROUND,
    }
    given = np.float32(list(cases))
    targets = anchors.match(given, boxes, np.float32([7, 8, -1])).numpy()
    assert targets[:, 4].tolist() == list(cases.values())
    restored = anchors.from_offsets(given, targets[:, :4]).numpy()
    np.testing.assert_allclose(restored[:3], boxes[[0, 1, 0]], atol=1e-4)
    assert not targets[3:, :4].any()
    # Centre 2 of 20 and 3 of 10 pixels away, twice as wide and half as high, in tenths and fifths.
    moved = anchors.to_offsets(np.float32([[0, 0, 20, 10]]), np.float32([[-8, 5.5, 32, 10.5]]))
    np.testing.assert_allclose(moved, [[1, 3, np.log(2) / 0.2, -np.log(2) / 0.2]], rtol=1e-5)


def test_the_losses_are_those_of_the_paper():
    targets = np.zeros([2, 3, 5], np.float32)
    targets[..., 4] = [[1, anchors.BACKGROUND, anchors.IGNORED], [0, 0, anchors.BACKGROUND]]
    targets[..., :4] = RNG.normal(size=(2, 3, 4))
    outputs = 2 * RNG.normal(size=(2, 3, 6)).astype(np.float32)
    expected = 0.0
    for target, output in zip(targets.reshape(6, 5), outputs.reshape(6, 6), strict=True):
        if target[4] == anchors.IGNORED:
            continue
        for number, logit in enumerate(output[4:]):
            probability = 1 / (1 + np.exp(-logit))
            right = probability if number == target[4] else 1 - probability
            alpha = 0.25 if number == target[4] else 0.75
            expected -= alpha * (1 - right) ** 2 * np.log(right)
        if target[4] >= 0:
            error = np.abs(target[:4] - output[:4])
            expected += np.where(error < 1, error**2 / 2, error - 0.5).mean()
    assert float(retinanet.loss(targets, outputs)) == pytest.approx(expected / 3, rel=1e-4)


def test_a_batch_without_objects_gives_a_finite_step():
    model = detector("imagenet", 96)
    empty = model.targets(-tf.ones([2, 1, 4]), -tf.ones([2, 1]))
    assert set(np.unique(empty[..., 4])) == {anchors.BACKGROUND}
    assert np.isfinite(empty).all()
    with tf.GradientTape() as tape:
        outputs = tf.constant(RNG.normal(size=(2, len(model.anchors), 7)), tf.float32)
        tape.watch(outputs)
        loss = retinanet.loss(empty, outputs)
    assert float(loss) == 0 and not tape.gradient(loss, outputs).numpy().any()


def test_overlaps_are_suppressed_within_a_class_only():
    boxes = tf.constant([[[10.0, 10, 50, 50], [11, 10, 50, 50], [60, 60, 90, 99]]])
    logits = np.full([1, 3, 3], -9.0, np.float32)
    logits[0, 0, 0], logits[0, 1, 0], logits[0, 1, 1], logits[0, 2, 2] = 2.0, 1.0, 0.0, -2.0
    found = retinanet.suppress(boxes, tf.constant(logits), 96)
    count = int(found["num_detections"][0])
    assert found["classes"][0, :count].numpy().tolist() == [0, 1, 2]
    np.testing.assert_allclose(
        found["boxes"][0, :count], [[10, 10, 50, 50], [11, 10, 50, 50], [60, 60, 90, 96]]
    )
    np.testing.assert_allclose(
        found["confidence"][0, :count], 1 / (1 + np.exp([-2.0, 0, 2])), rtol=1e-5
    )


class Finder:
    """Detects the same in each image: a box, one in the padding, and one beyond the count."""

    def predict(self, images, verbose):
        rows = sum(len(batch) for batch in images)
        box = [[8, 4, 16, 12], [0, 50, 64, 60], [1, 1, 2, 2]]
        return {
            "boxes": np.tile(np.array(box, np.float32), (rows, 1, 1)),
            "classes": np.tile(np.array([1.0, 0, 2], np.float32), (rows, 1)),
            "confidence": np.tile(np.array([0.9, 0.8, 0.0], np.float32), (rows, 1)),
            "num_detections": np.full(rows, 2),
        }


def test_detections_are_in_the_pixels_of_their_images(rectangles):
    found = detection.detect(Finder(), rectangles, PREPROCESSING, 64, batch_size=2)
    ids = [image.image_id for image in rectangles.images]
    # The first image, 40 x 24, is 64 x 38 in its square: the second box is in the padding.
    (first,) = [entry for entry in found if entry["image_id"] == ids[0]]
    assert first["bbox"] == pytest.approx([5, 4 * 24 / 38, 5, 8 * 24 / 38], abs=0.006)
    assert (first["category_id"], first["score"]) == (9, pytest.approx(0.9))
    square = [entry for entry in found if entry["image_id"] == ids[2]]
    assert [entry["bbox"] for entry in square] == [[8, 4, 8, 8], [0, 50, 64, 10]]
    assert [entry["category_id"] for entry in square] == [9, 4]


def test_the_learning_rate_warms_up_and_drops_twice():
    schedule = detection.WarmupDecay(0.5, 4, (10, 20))
    rates = [float(schedule(tf.constant(step, tf.int64))) for step in range(30)]
    assert rates[:5] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert rates[5:10] == pytest.approx([0.5] * 5)
    assert rates[10:20] == pytest.approx([0.05] * 10)
    assert rates[20:] == pytest.approx([0.005] * 10)
    assert float(detection.WarmupDecay(0.5, 0, ())(0)) == 0.5


@pytest.fixture
def tree(tmp_path, images_dir):
    """A VOC tree of four scenes of 64 pixels."""
    scenes.write_voc(tmp_path, images_dir / "train", "train", 4, size=64)
    return tmp_path


def as_coco(tree, made):
    """Returns the content of a COCO file of a tree's scenes, with categories 10, 20, ..."""
    objects = [(number, item) for number, scene in enumerate(made) for item in scene.objects]
    names = (tree / "classes.txt").read_text().split()
    return {
        "categories": [{"id": 10 * (i + 1), "name": name} for i, name in enumerate(names)],
        "images": [
            {"id": number, "file_name": f"train_{number:04d}.jpg", "width": 64, "height": 64}
            for number in range(len(made))
        ],
        "annotations": [
            {
                "id": 1 + index,
                "image_id": number,
                "category_id": 10 * (item.class_index + 1),
                "bbox": [xmin, ymin, xmax - xmin, ymax - ymin],
            }
            for index, (number, item) in enumerate(objects)
            for xmin, ymin, xmax, ymax in [item.box]
        ],
    }


@pytest.mark.slow
def test_a_few_annotated_images_are_learnt(tmp_path, images_dir, tmp_path_factory):
    made = scenes.write_voc(tmp_path, images_dir / "train", "train", 4, size=64)
    coco_file = tmp_path / "train.json"
    coco_file.write_text(json.dumps(as_coco(tmp_path, made)))
    # Another training image, of a different shape and without objects.
    Image.new("RGB", (64, 48), (90, 120, 90)).save(tmp_path / "JPEGImages" / "none.jpg")
    (tmp_path / "Annotations" / "none.xml").write_text(
        "<annotation><size><width>64</width><height>48</height></size></annotation>"
    )
    with open(tmp_path / "ImageSets" / "Main" / "train.txt", "a") as split:
        split.write("none\n")
    output = tmp_path_factory.mktemp("output")
    before = encoder().get_weights()

    # The same images and boxes, in VOC's and in COCO's format.
    splits = Splits(
        f"voc:{tmp_path}:train", f"coco:{tmp_path}/JPEGImages:{coco_file}", output_dir=str(output)
    )
    result = detection.evaluate(pretrained(), splits, config())
    assert result.ap_50 > 0.6
    assert 0.1 < result.ap < result.ap_50
    assert result.ap_50 == pytest.approx(np.mean(list(result.class_ap_50.values())))
    assert (result.num_test, result.num_boxes) == (4, sum(len(scene.objects) for scene in made))
    assert result.cells() == {
        "detection AP50, %": f"{100 * result.ap_50:.1f}",
        "detection AP75, %": f"{100 * result.ap_75:.1f}",
    }
    for weight, old in zip(encoder().get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, old)

    with contextlib.redirect_stdout(io.StringIO()):
        found = COCO(str(coco_file)).loadRes(str(output / "detections_random_encoder.json"))
    assert len(found.anns) > 0, "COCO's tools take the file beside the user's own annotations"
    assert set(found.catToImgs) <= {10, 20, 30, 40, 50, 60}
    assert all(0.05 < entry["score"] <= 1 for entry in found.anns.values())


def refused(message, tree, train="train", test="train", build=encoder, **changes):
    splits = Splits(f"voc:{tree}:{train}", f"voc:{tree}:{test}")
    with pytest.raises(UserError, match=message):
        detection.evaluate(pretrained(build), splits, config(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 100}, "image_size is 100; give a multiple of 32"),
        ({"image_size": 0}, "image_size is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"warmup": 1.0}, "warmup is 1"),
        ({"steps": 0}, "detection.steps is 0"),
        ({"build": None}, "cannot be trained"),
        ({"test": "val"}, "no split"),
    ],
)
def test_a_bad_value_is_refused_before_training(tree, changes, message):
    refused(message, tree, **changes)


def test_splits_of_other_classes_are_refused(tree, tmp_path_factory, images_dir):
    other = tmp_path_factory.mktemp("other")
    scenes.write_voc(other, images_dir / "train", "test", 1, size=64, classes=("cat", "deer"))
    splits = Splits(f"voc:{tree}:train", f"voc:{other}:test")
    with pytest.raises(UserError, match="same classes .*airplane.*deer"):
        detection.evaluate(pretrained(), splits, config())


def test_splits_without_a_box_are_refused(tree):
    (tree / "Annotations" / "train_0000.xml").write_text(
        "<annotation><size><width>64</width><height>64</height></size></annotation>"
    )
    (tree / "ImageSets" / "Main" / "none.txt").write_text("train_0000\n")
    refused("none of the 1 images of 'voc:.*:none' has a box to train on", tree, train="none")
    refused("none of the 1 images of 'voc:.*:none' has a box that is scored", tree, test="none")


def test_only_difficult_test_boxes_are_refused(tree):
    for path in (tree / "Annotations").iterdir():
        text = path.read_text()
        path.write_text(text.replace("<difficult>0", "<difficult>1"))
    refused("none of the 4 images of .* has a box that is scored", tree)


def test_a_broken_image_is_named_before_training(tree):
    path = tree / "JPEGImages" / "train_0002.jpg"
    path.write_bytes(path.read_bytes()[:200])
    refused(r"train_0002\.jpg' .*not a complete image", tree)


def test_a_missing_package_is_named(tree, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *a: None if name == "pycocotools" else found(name, *a),
    )
    refused(r'needs pycocotools, .* run pip install "byol_tf\[detection\]"', tree)
