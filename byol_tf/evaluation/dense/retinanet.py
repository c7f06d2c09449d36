"""KerasCV's RetinaNet (Lin et al., arXiv 1708.02002) with an encoder of this package as backbone.

KerasCV 0.9 is used unchanged: the feature pyramid P3 to P7 on C3 to C5, heads of three convolutions
of 256 channels without BatchNorm, nine anchors per position, focal loss (alpha 0.25, gamma 2) and
smooth L1 loss, both divided by the number of anchors that match a box. Two things are set here: the
strides and sizes of the anchors follow the encoder's stem, and overlapping detections suppress each
other only within a class, as in the paper; KerasCV's default is across classes.

Only code that builds a detector imports this module: importing KerasCV takes about a second.
"""

import contextlib
import io

import keras
import tensorflow as tf

from byol_tf.errors import UserError
from byol_tf.models.stages import stage_outputs

with contextlib.redirect_stdout(io.StringIO()):  # keras_core prints its backend.
    import keras_cv

FORMAT = "xyxy"
# With the usual stem P3 has stride 8 and anchors from 32 pixels (Lin et al., section 4).
_ANCHOR_PER_STRIDE = 4.0
_SCALES = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
_ASPECT_RATIOS = (0.5, 1.0, 2.0)
_SCORE_THRESHOLD = 0.05
_IOU_THRESHOLD = 0.5
_MAX_DETECTIONS = 100


def build_retinanet(
    encoder: keras.Model, num_classes: int, image_size: int
) -> keras_cv.models.RetinaNet:
    """Builds the detector.

    With the `imagenet` stem P3 to P7 have strides 8 to 128 and smallest anchors of 32 to 512
    pixels; with the `small` stem, whose stages have a quarter of the stride, strides are 2 to 32
    and anchors 8 to 128.

    Args:
        encoder: ResNet of `networks.resnet`. Its weights are copied; all are trainable, and
            BatchNorm uses batch statistics in training.
        num_classes: Number of classes C.
        image_size: Side of the images, in pixels.

    Returns:
        A model of images float32 `[B, image_size, image_size, 3]`, to be compiled with KerasCV's
        losses "focal" and "smoothl1". Its targets are
        `{"boxes": [B, n, 4], "classes": [B, n]}`: pixels (xmin, ymin, xmax, ymax) and numbers in
        [0, C), padded with -1, n at least 1. `predict` gives `boxes` and `classes` of the same
        form, `confidence` float32 `[B, 100]` and `num_detections` int32 `[B]`, best first.

    Raises:
        UserError: The encoder is not a ResNet of this package, or the image size is not a multiple
            of 32.
    """
    # The pyramid adds each map to the next finer one, so sizes must halve without a remainder.
    if image_size < 32 or image_size % 32:
        raise UserError(
            f"detection.image_size is {image_size}; give a multiple of 32 pixels, such as 512."
        )
    stages = stage_outputs(encoder, image_size)
    maps = {f"P{level}": stages.output[f"c{level}"] for level in (3, 4, 5)}
    backbone = keras_cv.models.Backbone(stages.inputs, stages.outputs)
    backbone.pyramid_level_inputs = {name: map_.node.layer.name for name, map_ in maps.items()}
    strides = [image_size // map_.shape[1] for map_ in maps.values()]
    strides += [2 * strides[-1], 4 * strides[-1]]
    anchors = keras_cv.layers.AnchorGenerator(
        FORMAT,
        sizes=[_ANCHOR_PER_STRIDE * stride for stride in strides],
        scales=_SCALES,
        aspect_ratios=_ASPECT_RATIOS,
        strides=strides,
        clip_boxes=True,
    )
    return keras_cv.models.RetinaNet(
        backbone,
        num_classes,
        FORMAT,
        anchor_generator=anchors,
        prediction_decoder=_SuppressionWithinClasses(),
    )


class _SuppressionWithinClasses(keras.layers.Layer):
    """RetinaNet's detections with a score above 0.05, without overlaps within a class."""

    bounding_box_format = FORMAT

    def call(self, boxes, logits, image_shape):
        # Early in training boxes can be infinite, and then have no area to compare.
        height, width = image_shape[:2]
        boxes = tf.clip_by_value(
            boxes, 0.0, tf.constant([width, height, width, height], tf.float32)
        )
        boxes, scores, classes, count = tf.image.combined_non_max_suppression(
            boxes[:, :, tf.newaxis],
            tf.sigmoid(logits),
            max_output_size_per_class=_MAX_DETECTIONS,
            max_total_size=_MAX_DETECTIONS,
            iou_threshold=_IOU_THRESHOLD,
            score_threshold=_SCORE_THRESHOLD,
            clip_boxes=False,
        )
        return {
            "boxes": boxes,
            "confidence": scores,
            "classes": classes,
            "num_detections": count,
        }
