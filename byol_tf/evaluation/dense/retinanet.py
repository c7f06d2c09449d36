"""RetinaNet (Lin et al., arXiv 1708.02002) with an encoder of this package as backbone.

The network, its initial weights and its losses are those of KerasCV 0.9, which has no release for
today's Keras: the feature pyramid P3 to P7 on C3 to C5, heads of three convolutions of 256 channels
without BatchNorm, nine anchors per position, focal loss (alpha 0.25, gamma 2) and smooth L1 loss,
both divided by the number of anchors that match a box. The strides and sizes of the anchors follow
the encoder's stem. Overlapping detections suppress each other only within a class, as in the paper.
"""

import math
from typing import Any

import keras
import tensorflow as tf
from keras import layers

from byol_tf.errors import UserError
from byol_tf.evaluation.dense import anchors
from byol_tf.models.stages import stage_outputs

_CHANNELS = 256
_PRIOR = 0.01  # Of each class at each anchor before training.
_ALPHA, _GAMMA = 0.25, 2.0
_SCORE_THRESHOLD = 0.05
_IOU_THRESHOLD = 0.5
_MAX_DETECTIONS = 100


class RetinaNet(keras.Model):
    """The detector: images float32 `[B, image_size, image_size, 3]` -> float32 `[B, A, 4 + C]`.

    The outputs are the offsets of a box from each of A anchors and the logits of C classes, to be
    trained by `loss` on `targets`. `predict` gives detections instead: `boxes` float32
    `[B, 100, 4]`, pixels (xmin, ymin, xmax, ymax), `classes` in [0, C) and `confidence` float32
    `[B, 100]`, and `num_detections` int32 `[B]`, best first.

    With the `imagenet` stem P3 to P7 have strides 8 to 128 and smallest anchors of 32 to 512
    pixels; with the `small` stem, whose stages have a quarter of the stride, strides are 2 to 32
    and anchors 8 to 128.

    Args:
        encoder: ResNet of `networks.resnet`. Its weights are copied; all are trainable, and
            BatchNorm uses batch statistics in training.
        num_classes: Number of classes C.
        image_size: Side of the images, in pixels.

    Raises:
        UserError: The encoder is not a ResNet of this package, or the image size is not a multiple
            of 32.
    """

    def __init__(self, encoder: keras.Model, num_classes: int, image_size: int):
        # The pyramid adds each map to the next finer one, so sizes must halve without a remainder.
        if image_size < 32 or image_size % 32:
            raise UserError(
                f"detection.image_size is {image_size}; give a multiple of 32 pixels, such as 512."
            )
        stages = stage_outputs(encoder, image_size)
        maps = [stages.output[stage] for stage in ("c3", "c4", "c5")]
        strides = [image_size // map_.shape[1] for map_ in maps]
        strides += [2 * strides[-1], 4 * strides[-1]]
        outputs = _predictions(_pyramid(*maps), num_classes)
        super().__init__(stages.inputs[0], outputs, name="retinanet")
        self.image_size = image_size
        self.anchors = anchors.make_anchors(image_size, strides)

    def targets(self, boxes: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        """Returns the targets of a batch, float32 `[B, A, 5]`, as `anchors.match` describes them.

        Args:
            boxes: Boxes, float32 `[B, n, 4]`, pixels (xmin, ymin, xmax, ymax), padded with -1, n at
                least 1.
            classes: Classes in [0, C), float32 `[B, n]`, padded with -1.
        """
        return tf.map_fn(  # Image by image: all overlaps of a batch would take gigabytes.
            lambda labels: anchors.match(self.anchors, *labels),
            (boxes, classes),
            fn_output_signature=tf.TensorSpec([len(self.anchors), 5], tf.float32),
        )

    def predict_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Detects objects in a batch of images."""
        outputs = super().predict_step(data)
        boxes = anchors.from_offsets(self.anchors, outputs[..., :4])
        return suppress(boxes, outputs[..., 4:], self.image_size)


def loss(targets: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
    """Computes the focal and the smooth L1 loss of a batch, a scalar; 0 if no anchor has a box.

    Args:
        targets: Result of `RetinaNet.targets`, `[B, A, 5]`.
        outputs: Outputs of the model, `[B, A, 4 + C]`.
    """
    classes, logits = targets[..., 4], outputs[..., 4:]
    positive = tf.cast(classes > anchors.BACKGROUND, tf.float32)
    counted = tf.cast(classes != anchors.IGNORED, tf.float32)
    # All zeros for classes below 0.
    present = tf.one_hot(tf.cast(classes, tf.int32), logits.shape[-1])
    wrong = tf.abs(present - tf.sigmoid(logits))
    alpha = _ALPHA * present + (1 - _ALPHA) * (1 - present)
    cross_entropy = tf.nn.sigmoid_cross_entropy_with_logits(present, logits)
    focal = tf.reduce_sum(alpha * wrong**_GAMMA * cross_entropy, axis=-1)
    error = tf.abs(targets[..., :4] - outputs[..., :4])
    smooth_l1 = tf.reduce_mean(tf.where(error < 1, error**2 / 2, error - 0.5), axis=-1)
    total = tf.reduce_sum(counted * focal + positive * smooth_l1)
    return tf.math.divide_no_nan(total, tf.reduce_sum(positive))


def suppress(boxes: tf.Tensor, logits: tf.Tensor, image_size: int) -> dict[str, tf.Tensor]:
    """Returns the detections with a score above 0.05, without overlaps within a class.

    Args:
        boxes: Boxes of all anchors, `[B, A, 4]`.
        logits: Their logits, `[B, A, C]`.
        image_size: Side of the images, to which the boxes are clipped.

    Returns:
        What `RetinaNet` describes.
    """
    # Early in training boxes can be infinite, and then have no area to compare.
    boxes = tf.clip_by_value(boxes, 0.0, float(image_size))
    boxes, scores, classes, count = tf.image.combined_non_max_suppression(
        boxes[:, :, tf.newaxis],
        tf.sigmoid(logits),
        max_output_size_per_class=_MAX_DETECTIONS,
        max_total_size=_MAX_DETECTIONS,
        iou_threshold=_IOU_THRESHOLD,
        score_threshold=_SCORE_THRESHOLD,
        clip_boxes=False,
    )
    return {"boxes": boxes, "confidence": scores, "classes": classes, "num_detections": count}


def _pyramid(c3: tf.Tensor, c4: tf.Tensor, c5: tf.Tensor) -> list[tf.Tensor]:
    """Returns P3 to P7, each at half the size of the one before."""

    def conv(x, kernel_size, name, strides=1):
        return layers.Conv2D(_CHANNELS, kernel_size, strides, "same", name=f"pyramid_{name}")(x)

    p5 = conv(c5, 1, "lateral5")
    p4 = conv(c4, 1, "lateral4") + layers.UpSampling2D(name="pyramid_up5")(p5)
    p3 = conv(c3, 1, "lateral3") + layers.UpSampling2D(name="pyramid_up4")(p4)
    p6 = conv(c5, 3, "p6", strides=2)
    p7 = conv(layers.ReLU(name="pyramid_relu6")(p6), 3, "p7", strides=2)
    return [conv(p3, 3, "p3"), conv(p4, 3, "p4"), conv(p5, 3, "p5"), p6, p7]


def _predictions(maps: list[tf.Tensor], num_classes: int) -> tf.Tensor:
    """Applies both heads, which all maps share: -> `[B, A, 4 + num_classes]`."""
    parts = []
    for name, size, bias in (
        ("box", 4, 0.0),
        ("class", num_classes, -math.log((1 - _PRIOR) / _PRIOR)),
    ):
        head = [
            _head_conv(_CHANNELS, f"{name}_conv{number}", activation="relu") for number in (1, 2, 3)
        ]
        head.append(
            _head_conv(
                anchors.PER_CELL * size,
                f"{name}_output",
                bias_initializer=keras.initializers.Constant(bias),
            )
        )
        of_maps = []
        for level, x in enumerate(maps, start=3):
            for layer in head:
                x = layer(x)
            of_maps.append(layers.Reshape((-1, size), name=f"{name}_p{level}")(x))
        parts.append(layers.Concatenate(axis=1, name=name)(of_maps))
    return layers.Concatenate(name="box_and_class")(parts)


def _head_conv(filters: int, name: str, **kwargs: Any) -> layers.Conv2D:
    return layers.Conv2D(
        filters, 3, padding="same", kernel_initializer="orthogonal", name=name, **kwargs
    )
