"""Object detection (paper section 4.3, appendix D.5): a RetinaNet is fine-tuned on boxes.

The paper trains a Faster R-CNN on a C4 backbone whose representation is frozen, for 1.5 million
asynchronous steps on VOC trainval2007, and reports AP50 on test2007. Here the detector is KerasCV's
RetinaNet, fine-tuned as a whole for Detectron2's 24,000 steps, with the learning rate and weight
decay that RetinaNet's paper gives (Lin et al., arXiv 1708.02002, section 4.1). So figures compare
encoders with each other, not with the paper's table.

All layers are trained, BatchNorm on the statistics of the batch. Images are scaled to fit a square,
filled up at the right and below with the mean colour; half of those trained on are mirrored.
"""

import dataclasses
import importlib.util
import json
import re
from typing import Any

import keras
import ml_collections
import numpy as np
import tensorflow as tf

from byol_tf.errors import UserError
from byol_tf.evaluation.dense import pairs
from byol_tf.evaluation.dense.boxes import BoxData, check_images, open_boxes
from byol_tf.evaluation.dense.letterbox import evaluation_batches, from_fitted, training_batches
from byol_tf.evaluation.evaluated_encoder import EvaluatedEncoder
from byol_tf.evaluation.splits import Splits
from byol_tf.files import write_atomically
from byol_tf.images.preprocessing import Preprocessing

_BATCH_OF_LEARNING_RATE = 16
_MAX_GRADIENT_NORM = 10.0  # As KerasCV's guide: its heads start with large weights.


@dataclasses.dataclass(frozen=True)
class DetectionResult:
    """Average precision on the test set, in [0, 1], as COCO's tools compute it.

    Attributes:
        ap: mean over classes and the IoU thresholds 0.5, 0.55, ..., 0.95.
        ap_50, ap_75: mean over classes at the threshold 0.5, 0.75.
        class_ap_50: by class name; classes without a test box are left out, here and above.
        num_test: test images.
        num_boxes: test boxes that count: neither difficult (VOC) nor crowds (COCO).
    """

    ap: float
    ap_50: float
    ap_75: float
    class_ap_50: dict[str, float]
    num_test: int
    num_boxes: int

    def cells(self) -> dict[str, str]:
        """Of the results table: header -> text."""
        return {
            "detection AP50, %": f"{100 * self.ap_50:.1f}",
            "detection AP75, %": f"{100 * self.ap_75:.1f}",
        }


def evaluate(
    pretrained: EvaluatedEncoder, task: Splits, config: ml_collections.ConfigDict
) -> DetectionResult:
    """Runs the protocol, and leaves `detections_{encoder}.json`, COCO results, beside it.

    Objects that VOC marks as difficult are trained on, as in Detectron2; COCO's crowds are not.

    Args:
        pretrained: fine-tuned as a whole; of its preprocessing only the normalisation is used.
        task: its train and test are names that `boxes.open_boxes` takes.
        config: section `detection`.

    Raises:
        UserError: a package is missing; a bad value, split, annotation or image; splits of other
            classes; no boxes; an encoder that cannot be trained; training that diverged.
    """
    _check_packages()
    from byol_tf.evaluation.dense.average_precision import average_precision
    from byol_tf.evaluation.dense.retinanet import build_retinanet

    _check_config(config)
    encoder = pretrained.trainable()
    train, test = _open(task)
    keras.utils.set_random_seed(task.seed)  # Of the weights that are new.
    model = build_retinanet(encoder, len(train.class_names), config.image_size)
    for data in (train, test):
        check_images(data)
    _fit(model, train, pretrained.preprocessing, config, task.seed)
    detections = detect(model, test, pretrained.preprocessing, config.image_size, config.batch_size)
    file_name = re.sub(r"\W+", "_", f"detections_{pretrained.name.lower()}") + ".json"
    if path := task.output_path(file_name):
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
    """Finds objects in all images.

    Args:
        model: of `retinanet.build_retinanet`, for images of `image_size`.
        data: its boxes are not looked at.
        preprocessing: normalises.
        image_size: S.
        batch_size: images at once.

    Returns:
        COCO results, in the images' own pixels: `image_id`, `category_id`, `bbox` (x, y, width,
        height; to a hundredth) and `score` in (0.05, 1]; up to 100 an image, the best first.
    """
    images = evaluation_batches(data, preprocessing, image_size, batch_size)
    found = model.predict(images, verbose=0)
    detections = []
    for row, image in enumerate(data.images):
        count = found["num_detections"][row]
        boxes = from_fitted(found["boxes"][row, :count].astype(np.float64), image, image_size)
        for (xmin, ymin, xmax, ymax), class_index, score in zip(
            boxes, found["classes"][row], found["confidence"][row]
        ):
            box = [round(float(side), 2) for side in (xmin, ymin, xmax - xmin, ymax - ymin)]
            if min(box[2:]) > 0:  # Not wholly in the padding.
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
    """Linear warm-up to a rate, which is then multiplied by 0.1 at each of some steps.

    Args:
        learning_rate: at step `warmup_steps` and on.
        warmup_steps: at step k before, the rate is learning_rate · (k + 1) / (warmup_steps + 1).
        decay_steps: the steps from which the rate is a tenth.
    """

    def __init__(self, learning_rate: float, warmup_steps: int, decay_steps: tuple[int, ...]):
        super().__init__()
        self.learning_rate = learning_rate
        self.warmup_steps = warmup_steps
        self.decay_steps = tuple(decay_steps)

    def __call__(self, step):
        step = tf.cast(step, tf.float32)
        warmup = tf.minimum((step + 1) / (self.warmup_steps + 1), 1.0)
        decays = tf.reduce_sum(
            tf.cast(step >= tf.constant(self.decay_steps, tf.float32), tf.float32)
        )
        return self.learning_rate * warmup * 0.1**decays


def _check_packages() -> None:
    missing = [
        package
        for package, module in (("keras-cv", "keras_cv"), ("pycocotools", "pycocotools"))
        if importlib.util.find_spec(module) is None
    ]
    if missing:
        raise UserError(
            f"detection needs packages that are not installed ({', '.join(missing)}); run "
            'pip install "byol_tf[detection]".'
        )


def _check_config(config) -> None:
    pairs.check_training("detection", config)
    if not config.learning_rate > 0:
        raise UserError(
            f"detection.learning_rate is {config.learning_rate}; give a positive number."
        )
    if not 0 <= config.warmup < 1:
        raise UserError(
            f"detection.warmup is {config.warmup}; give a number in [0, 1), a part of the training."
        )


def _open(task: Splits) -> tuple[BoxData, BoxData]:
    train, test = open_boxes(task.train), open_boxes(task.test)
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
            f"none of the {len(test.images)} images of '{test.name}' has a box that counts, neither "
            "difficult nor a crowd; give a split with objects."
        )
    return train, test


def _fit(model, train: BoxData, preprocessing, config, seed: int) -> None:
    learning_rate = config.learning_rate * config.batch_size / _BATCH_OF_LEARNING_RATE
    schedule = WarmupDecay(
        learning_rate,
        round(config.steps * config.warmup),
        [round(config.steps * part) for part in config.decay_at],
    )
    kernels = [weight for weight in model.trainable_weights if "kernel" in weight.name]
    model.add_loss(lambda: config.weight_decay * tf.add_n([tf.nn.l2_loss(k) for k in kernels]))
    model.compile(
        classification_loss="focal",
        box_loss="smoothl1",
        optimizer=keras.optimizers.SGD(
            schedule, config.momentum, global_clipnorm=_MAX_GRADIENT_NORM
        ),
        jit_compile=False,
    )
    batches = training_batches(
        train, preprocessing, config.image_size, config.batch_size, config.steps, seed
    )
    model.fit(batches, verbose=0, callbacks=[pairs.Progress(config.steps, learning_rate)])
