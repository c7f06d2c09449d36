"""Average precision of detections by pycocotools: COCO's AP, AP50 and AP75.

Only code that calls pycocotools imports this module.
"""

import contextlib
import dataclasses
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from byol_tf.evaluation.dense.boxes import BoxData


@dataclasses.dataclass(frozen=True)
class AveragePrecision:
    """Average precision, as means over classes, in [0, 1].

    Attributes:
        ap: Mean over the IoU thresholds 0.5, 0.55, ..., 0.95.
        ap_50, ap_75: Values at the thresholds 0.5 and 0.75.
        class_ap_50: Value at the threshold 0.5 by class name; classes without a scored box are left
            out, here and in the means.
        num_boxes: Number of scored boxes: neither difficult nor crowds.
    """

    ap: float
    ap_50: float
    ap_75: float
    class_ap_50: dict[str, float]
    num_boxes: int


def average_precision(data: BoxData, detections: Sequence[dict[str, Any]]) -> AveragePrecision:
    """Scores detections as COCO does: precision interpolated at 101 recalls, objects of any size.

    VOC2007's own AP50 interpolates at 11 recalls, so it is a different number.

    Args:
        data: Truth, with at least one box that is scored. A detection of a difficult object or a
            crowd counts neither as right nor as wrong.
        detections: COCO results: `image_id`, `category_id`, `bbox` (x, y, width, height) and
            `score`; the 100 with the highest scores of each image and class are used.
    """
    truth = to_coco(data)
    found = [
        detection | {"id": number, "area": detection["bbox"][2] * detection["bbox"][3]}
        for number, detection in enumerate(detections, start=1)
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints.
        # Not COCO.loadRes, which fails on an empty list.
        evaluation = _Evaluation(_index(truth), _index(truth | {"annotations": found}), "bbox")
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [100]
        evaluation.evaluate()
        evaluation.accumulate()
    # [threshold, recall, class]; -1 where a class has no boxes.
    precision = evaluation.eval["precision"][..., 0, 0]
    scored = precision[0, 0] > -1
    by_threshold = precision[..., scored].mean(axis=1)  # [threshold, scored class]
    thresholds = evaluation.params.iouThrs

    def at(threshold: float) -> np.ndarray:
        return by_threshold[np.argmin(np.abs(thresholds - threshold))]

    names = [name for name, has_boxes in zip(data.class_names, scored, strict=True) if has_boxes]
    return AveragePrecision(
        ap=float(by_threshold.mean()),
        ap_50=float(at(0.5).mean()),
        ap_75=float(at(0.75).mean()),
        class_ap_50=dict(zip(names, at(0.5).tolist(), strict=True)),
        num_boxes=sum(not annotation["iscrowd"] for annotation in truth["annotations"]),
    )


def to_coco(data: BoxData) -> dict[str, Any]:
    """Returns the truth as the content of a COCO file.

    Difficult objects are written as crowds: `iscrowd` is the only field that makes pycocotools
    ignore a box, since it overwrites `ignore`. The field `difficult` tells them apart.
    """
    annotations: list[dict[str, Any]] = []
    for image in data.images:
        objects = zip(
            image.boxes.tolist(), image.classes, image.difficult, image.crowd, strict=True
        )
        for (xmin, ymin, xmax, ymax), class_index, difficult, crowd in objects:
            width, height = xmax - xmin, ymax - ymin
            annotations.append(
                {
                    "id": len(annotations) + 1,  # pycocotools reads 0 as unmatched.
                    "image_id": image.image_id,
                    "category_id": data.category_ids[class_index],
                    "bbox": [xmin, ymin, width, height],
                    "area": width * height,
                    "iscrowd": int(crowd or difficult),
                    "difficult": int(difficult),
                }
            )
    return {
        "images": [
            {"id": image.image_id, "width": image.width, "height": image.height}
            for image in data.images
        ],
        "annotations": annotations,
        "categories": [
            {"id": category, "name": name}
            for category, name in zip(data.category_ids, data.class_names, strict=True)
        ],
    }


class _Evaluation(COCOeval):
    """COCO's evaluation with VOC's rule for difficult objects.

    Like a crowd, a difficult object may be detected any number of times. Unlike a crowd it is one
    object, which a detection of a small part does not match: its IoU is the usual one, not the
    intersection over the area of the detection.
    """

    def computeIoU(self, imgId, catId):
        difficult = [truth for truth in self._gts[imgId, catId] if truth["difficult"]]
        for truth in difficult:
            truth["iscrowd"] = 0
        try:
            return super().computeIoU(imgId, catId)
        finally:
            for truth in difficult:
                truth["iscrowd"] = 1


def _index(dataset: dict[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = dataset
    coco.createIndex()
    return coco
