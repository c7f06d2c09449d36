"""Object detection (paper section 4.3, appendix D.5): a RetinaNet fine-tuned on boxes.

The paper trains a Faster R-CNN on a frozen C4 backbone, for 1.5 million asynchronous steps on VOC
trainval2007, and reports AP50 on test2007. Here the detector is a RetinaNet, fine-tuned as a whole
for Detectron2's 24,000 steps, with the learning rate and weight decay of RetinaNet's paper (Lin et
al., arXiv 1708.02002, section 4.1). So results compare encoders with each other, not with the
paper's table.

All layers are trained, with BatchNorm using batch statistics. Images are scaled to fit a square and
padded at the right and below with the mean colour; half of the training images are mirrored.
"""

import dataclasses
import importlib.util
import json
import re
from collections.abc import Sequence
from typing import Any

import keras
import ml_collections
import numpy as np
import tensorflow as tf

from byol_tf.errors import UserError
from byol_tf.evaluation.dense import pairs, retinanet
from byol_tf.evaluation.dense.boxes import BoxData, check_images, open_boxes
from byol_tf.evaluation.dense.letterbox import evaluation_batches, from_fitted, training_batches
from byol_tf.evaluation.evaluated_encoder import EvaluatedEncoder
from byol_tf.evaluation.splits import Splits
from byol_tf.files import write_atomically
from byol_tf.images.preprocessing import Preprocessing

_BATCH_OF_LEARNING_RATE = 16
_MAX_GRADIENT_NORM = 10.0  # The heads start with large weights.


@dataclasses.dataclass(frozen=True)
class DetectionResult:
    """Average precision on the test set, in [0, 1], as COCO's tools compute it.

    Attributes:
        ap: Mean over classes and the IoU thresholds 0.5, 0.55, ..., 0.95.
        ap_50, ap_75: Means over classes at the thresholds 0.5 and 0.75.
        class_ap_50: AP at the threshold 0.5 by class name; classes without a test box are left out,
            here and above.
        num_test: Number of test images.
        num_boxes: Number of scored test boxes: neither difficult (VOC) nor crowds (COCO).
    """

    ap: float
    ap_50: float
    ap_75: float
    class_ap_50: dict[str, float]
    num_test: int
    num_boxes: int

    def cells(self) -> dict[str, str]:
        """Returns the cells of the results table by header."""
        return {
            "detection AP50, %": f"{100 * self.ap_50:.1f}",
            "detection AP75, %": f"{100 * self.ap_75:.1f}",
        }


def evaluate(
    encoder: EvaluatedEncoder, splits: Splits, config: ml_collections.ConfigDict
) -> DetectionResult:
    """Runs the protocol and writes COCO results to `detections_{encoder}.json`.

    Training uses the objects that VOC marks as difficult, as in Detectron2, but not COCO's crowds.

    Args:
        encoder: Encoder, fine-tuned as a whole; of its preprocessing only the normalisation is
            used.
        splits: Splits whose train and test are names that `boxes.open_boxes` takes.
        config: Section `detection`.

    Raises:
        UserError: pycocotools is missing; a value, split, annotation or image is bad; the splits
            have different classes or no boxes; the encoder cannot be trained; training diverged.
    """
    _check_package()
    from byol_tf.evaluation.dense.average_precision import average_precision

    _check_config(config)
    backbone = encoder.trainable()
    train, test = _open(splits)
    keras.utils.set_random_seed(splits.seed)  # For the new weights.
    model = retinanet.RetinaNet(backbone, len(train.class_names), config.image_size)
    for data in (train, test):
        check_images(data, encoder.preprocessing.decode)
    _fit(model, train, encoder.preprocessing, config, splits.seed)
    detections = detect(model, test, encoder.preprocessing, config.image_size, config.batch_size)
    file_name = re.sub(r"\W+", "_", f"detections_{encoder.name.lower()}") + ".json"
    if path := splits.output_path(file_name):
        write_atomically(path, json.dumps(detections) + "\n")
    precision = average_precision(test, detections)
    return DetectionResult(**dataclasses.asdict(precision), num_test=len(test.images))


def detect(
    model: keras.Model,
    data: BoxData,
    preprocessing: Preprocessing,
    image_size: int,
    batch_size: int,
) -> list[dict[str, Any]]:
    """Detects objects in all images.

    Args:
        model: `RetinaNet` for images of `image_size`.
        data: Images; their boxes are not used.
        preprocessing: Preprocessing, of which the normalisation is used.
        image_size: Side S of the network's input, in pixels.
        batch_size: Number of images per batch.

    Returns:
        COCO results in pixels of the original images: `image_id`, `category_id`, `bbox` (x, y,
        width, height; rounded to 0.01) and `score` in (0.05, 1]; at most 100 per image, best first.
    """
    images = evaluation_batches(data, preprocessing, image_size, batch_size)
    found = model.predict(images, verbose=0)
    detections = []
    for row, image in enumerate(data.images):
        count = found["num_detections"][row]
        boxes = from_fitted(found["boxes"][row, :count].astype(np.float64), image, image_size)
        for (xmin, ymin, xmax, ymax), class_index, score in zip(
            boxes, found["classes"][row, :count], found["confidence"][row, :count], strict=True
        ):
            box = [round(float(side), 2) for side in (xmin, ymin, xmax - xmin, ymax - ymin)]
            if min(box[2:]) > 0:  # Not entirely in the padding.
                detections.append(
                    {
                        "image_id": image.image_id,
                        "category_id": data.category_ids[int(class_index)],
                        "bbox": box,
                        "score": float(score),
                    }
                )
    return detections


class WarmupDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up to a learning rate, which is multiplied by 0.1 at each of some steps.

    Args:
        learning_rate: Learning rate from step `warmup_steps` on.
        warmup_steps: Length of the warm-up; at an earlier step k the rate is
            learning_rate · (k + 1) / (warmup_steps + 1).
        decay_steps: Steps at which the rate is multiplied by 0.1.
    """

    def __init__(self, learning_rate: float, warmup_steps: int, decay_steps: Sequence[int]):
        super().__init__()
        self.learning_rate = learning_rate
        self.warmup_steps = warmup_steps
        self.decay_steps = tuple(decay_steps)

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        step = tf.cast(step, tf.float32)
        warmup = tf.minimum((step + 1) / (self.warmup_steps + 1), 1.0)
        decays = tf.reduce_sum(
            tf.cast(step >= tf.constant(self.decay_steps, tf.float32), tf.float32)
        )
        return self.learning_rate * warmup * 0.1**decays


def _check_package() -> None:
    if importlib.util.find_spec("pycocotools") is None:
        raise UserError(
            'detection needs pycocotools, which is not installed; run pip install "byol_tf'
            '[detection]".'
        )


def _check_config(config: ml_collections.ConfigDict) -> None:
    pairs.check_training("detection", config)
    if not config.learning_rate > 0:
        raise UserError(
            f"detection.learning_rate is {config.learning_rate}; give a positive number."
        )
    if not 0 <= config.warmup < 1:
        raise UserError(
            f"detection.warmup is {config.warmup}; give a fraction of the steps, in [0, 1)."
        )


def _open(splits: Splits) -> tuple[BoxData, BoxData]:
    train, test = open_boxes(splits.train), open_boxes(splits.test)
    if train.class_names != test.class_names:
        differing = sorted(set(train.class_names) ^ set(test.class_names)) or "their order"
        raise UserError(
            f"'{train.name}' and '{test.name}' do not have the same classes (differing: "
            f"{differing}); give two splits of one data set."
        )
    if all(image.crowd.all() for image in train.images):
        raise UserError(
            f"none of the {len(train.images)} images of '{train.name}' has a box to train on; give "
            "a split with objects."
        )
    if all((image.crowd | image.difficult).all() for image in test.images):
        raise UserError(
            f"none of the {len(test.images)} images of '{test.name}' has a box that is scored, "
            "neither difficult nor a crowd; give a split with objects."
        )
    return train, test


def _fit(
    model: retinanet.RetinaNet,
    train: BoxData,
    preprocessing: Preprocessing,
    config: ml_collections.ConfigDict,
    seed: int,
) -> None:
    learning_rate = config.learning_rate * config.batch_size / _BATCH_OF_LEARNING_RATE
    schedule = WarmupDecay(
        learning_rate,
        round(config.steps * config.warmup),
        [round(config.steps * part) for part in config.decay_at],
    )
    optimizer = keras.optimizers.SGD(schedule, config.momentum, global_clipnorm=_MAX_GRADIENT_NORM)
    batches = training_batches(
        train, preprocessing, config.image_size, config.batch_size, config.steps, seed
    )
    matched = batches.map(
        lambda images, labels: (images, model.targets(**labels)), tf.data.AUTOTUNE
    ).prefetch(tf.data.AUTOTUNE)
    pairs.fit_with(optimizer, model, retinanet.loss, matched, learning_rate, config)
