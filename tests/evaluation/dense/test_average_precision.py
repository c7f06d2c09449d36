import contextlib
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from byol_tf.evaluation.dense.average_precision import average_precision, to_coco
from byol_tf.evaluation.dense.boxes import BoxData, BoxedImage

CLASSES = ("cat", "dog", "eel")
CATEGORIES = (4, 9, 11)


def image(image_id, boxes, classes, difficult=(), crowd=()):
    n = len(boxes)
    return BoxedImage(
        image_id,
        f"{image_id}.jpg",
        100,
        100,
        np.array(boxes, float).reshape(n, 4),
        np.array(classes, np.int32),
        np.isin(np.arange(n), difficult),
        np.isin(np.arange(n), crowd),
    )


def dataset(*images):
    return BoxData("boxes", CLASSES, CATEGORIES, images)


def detection(image_id, class_index, box, score):
    xmin, ymin, xmax, ymax = map(float, box)
    return {
        "image_id": image_id,
        "category_id": CATEGORIES[class_index],
        "bbox": [xmin, ymin, xmax - xmin, ymax - ymin],
        "score": float(score),
    }


def random_case(seed=0):
    """Six images with up to five boxes, none of class eel; detections are moved or random boxes."""
    rng = np.random.default_rng(seed)

    def random_boxes(count):
        corners = rng.uniform(0, 60, size=(count, 2))
        return np.concatenate([corners, corners + rng.uniform(8, 40, size=(count, 2))], axis=1)

    images, detections = [], []
    for image_id in range(10, 16):
        count = int(rng.integers(0, 6))
        boxes, classes = random_boxes(count), rng.integers(0, 2, size=count)
        images.append(image(image_id, boxes, classes))
        for box, class_index in zip(boxes, classes, strict=True):
            for _ in range(rng.integers(0, 4)):
                moved = box + rng.normal(scale=1.5, size=4)
                detections.append(detection(image_id, class_index, moved, rng.uniform()))
        for box in random_boxes(4):
            detections.append(detection(image_id, rng.integers(0, 3), box, 0.6 * rng.uniform()))
    return dataset(*images), detections


def iou(box, others):
    overlap = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    intersection = np.prod(np.maximum(overlap, 0), axis=1)
    areas = np.prod(others[:, 2:] - others[:, :2], axis=1)
    return intersection / (np.prod(box[2:] - box[:2]) + areas - intersection)


def reference_ap(data, detections, class_index, threshold):
    """Matches detections, best first, with the free box they overlap most; 101 recalls."""
    truth = {entry.image_id: entry.boxes[entry.classes == class_index] for entry in data.images}
    taken = {image_id: np.zeros(len(boxes), bool) for image_id, boxes in truth.items()}
    hits = []
    for entry in sorted(detections, key=lambda entry: -entry["score"]):
        if entry["category_id"] != CATEGORIES[class_index]:
            continue
        x, y, width, height = entry["bbox"]
        boxes, used = truth[entry["image_id"]], taken[entry["image_id"]]
        overlaps = np.where(used, 0, iou(np.array([x, y, x + width, y + height]), boxes))
        hit = len(boxes) > 0 and overlaps.max() >= threshold
        if hit:
            used[overlaps.argmax()] = True
        hits.append(hit)
    hits = np.array(hits)
    recall = hits.cumsum() / sum(map(len, truth.values()))
    precision = hits.cumsum() / np.arange(1, len(hits) + 1)
    levels = np.linspace(0, 1, 101)  # Some are a rounding error above the recall they stand for.
    return np.mean([max(precision[recall >= level], default=0) for level in levels])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_average_precision_is_the_area_under_interpolated_precision(seed):
    data, detections = random_case(seed)
    result = average_precision(data, detections)
    expected = {
        threshold: np.array([reference_ap(data, detections, index, threshold) for index in (0, 1)])
        for threshold in np.linspace(0.5, 0.95, 10)
    }
    assert result.ap_50 == pytest.approx(expected[0.5].mean())
    assert result.ap_75 == pytest.approx(expected[0.75].mean())
    assert result.ap == pytest.approx(np.mean(list(expected.values())))
    assert result.class_ap_50 == pytest.approx(
        dict(zip(("cat", "dog"), expected[0.5], strict=True))
    )
    assert result.num_boxes == sum(len(entry.boxes) for entry in data.images)
    assert 0.1 < result.ap < result.ap_50 < 0.95, "the case must tell right from wrong"


def test_coco_tools_read_truth_and_detections_and_agree(tmp_path, capsys):
    data, detections = random_case()
    for name, content in (("truth", to_coco(data)), ("detections", detections)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(tmp_path / "truth.json"))
        evaluation = COCOeval(truth, truth.loadRes(str(tmp_path / "detections.json")), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    capsys.readouterr()
    result = average_precision(data, detections)
    assert (result.ap, result.ap_50, result.ap_75) == pytest.approx(evaluation.stats[:3])
    assert capsys.readouterr().out == "", "pycocotools prints; the library does not"


def test_perfect_detections_have_ap_1_and_none_have_ap_0():
    data, _ = random_case()
    perfect = [
        detection(entry.image_id, class_index, box, 0.5)
        for entry in data.images
        for box, class_index in zip(entry.boxes, entry.classes, strict=True)
    ]
    assert average_precision(data, perfect).ap == pytest.approx(1)
    assert average_precision(data, []).ap_50 == 0


def test_images_may_have_voc_ids():
    data = dataset(image("000012", [[0, 0, 10, 10]], [1]), image("2008_000001", [], []))
    detections = [detection("000012", 1, [0, 0, 10, 10], 0.9)]
    assert average_precision(data, detections).class_ap_50 == pytest.approx({"dog": 1})


# A scored object at the lower right, an ignored one at the upper left.
BOXES = [[60, 60, 90, 90], [0, 0, 40, 40]]
FOUND = detection(1, 0, BOXES[0], 0.5)
TWICE = [detection(1, 0, BOXES[1], 0.9), detection(1, 0, [0, 0, 40, 36], 0.8)]
PART = detection(1, 0, [0, 0, 20, 20], 0.7)


def test_a_difficult_object_is_neither_right_nor_wrong():
    data = dataset(image(1, BOXES, [0, 0], difficult=[1]))
    missed = average_precision(data, [FOUND])
    assert (missed.ap_50, missed.num_boxes) == (pytest.approx(1), 1)
    assert average_precision(data, [FOUND, *TWICE]).ap_50 == pytest.approx(1)
    # A quarter of the object does not match it: one of two detections is right.
    assert average_precision(data, [FOUND, *TWICE, PART]).ap_50 == pytest.approx(1 / 2)
    # As an ordinary object, detected twice, it would add one right and one wrong detection.
    usual = dataset(image(1, BOXES, [0, 0]))
    assert average_precision(usual, [FOUND, *TWICE]).ap_50 == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_any_part_of_a_crowd_is_neither_right_nor_wrong():
    data = dataset(image(1, BOXES, [0, 0], crowd=[1]))
    assert average_precision(data, [FOUND, *TWICE, PART]).ap_50 == pytest.approx(1)
    # For another class it is wrong.
    cats, dogs = average_precision(
        dataset(image(1, [*BOXES, [50, 0, 60, 10]], [0, 0, 1], crowd=[1])),
        [FOUND, detection(1, 1, BOXES[1], 0.9), detection(1, 1, [50, 0, 60, 10], 0.5)],
    ).class_ap_50.values()
    assert (cats, dogs) == pytest.approx((1, 1 / 2))


def test_a_class_with_only_difficult_boxes_has_no_average_precision():
    data = dataset(image(1, BOXES, [0, 2], difficult=[1]))
    assert average_precision(data, [FOUND, detection(1, 2, BOXES[1], 0.9)]).class_ap_50 == (
        pytest.approx({"cat": 1})
    )
