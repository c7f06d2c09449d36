"""Average precision of detections, by pycocotools: COCO's AP, AP50 and AP75.

Only what calls pycocotools imports this module.
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
    """Means over classes, in [0, 1].

    Attributes:
        ap: mean over the IoU thresholds 0.5, 0.55, ..., 0.95.
        ap_50, ap_75: at the thresholds 0.5 and 0.75.
        class_ap_50: by class name; classes without a box that is scored are left out, here and in
            the means.
        num_boxes: that are scored: neither difficult nor crowds.
    """

    ap: float
    ap_50: float
    ap_75: float
    class_ap_50: dict[str, float]
    num_boxes: int


def average_precision(data: BoxData, detections: Sequence[dict[str, Any]]) -> AveragePrecision:
    """Scores detections as COCO does: precision interpolated at 101 recalls, objects of any size.

    VOC2007's own AP50 interpolates at 11 recalls, so it is another figure.

    Args:
        data: the truth; at least one of its boxes is scored. A detection of a difficult object or
            a crowd counts neither as right nor as wrong.
        detections: COCO results: `image_id`, `category_id`, `bbox` (x, y, width, height) and
            `score`; of an image and class the 100 with the highest scores are looked at.
    """
    truth = to_coco(data)
    found = [
        detection | {"id": number, "area": detection["bbox"][2] * detection["bbox"][3]}
        for number, detection in enumerate(detections, start=1)
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints.
        # Not COCO.loadRes, which takes no empty list.
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

    def at(threshold):
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
    """The truth as the content of a COCO file.

    Difficult objects are crowds there: `iscrowd` is the only field that makes pycocotools leave a
    box out, it overwrites `ignore`. The field `difficult` tells them apart.
    """
    annotations = []
    for image in data.images:
        objects = zip(
            image.boxes.tolist(), image.classes, image.difficult, image.crowd, strict=True
        )
        for (xmin, ymin, xmax, ymax), class_index, difficult, crowd in objects:
            width, height = xmax - xmin, ymax - ymin
            annotations.append(
                {
                    "id": len(annotations) + 1,  # pycocotools takes 0 for unmatched.
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
    """COCO's evaluation, and VOC's rule for difficult objects.

    Like a crowd, a difficult object may be found any number of times. Unlike a crowd it is one
    object, which a detection of a small part of it does not find: its IoU is the usual one, not
    the intersection over the area of the detection.
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
