"""Semantic segmentation (paper section 4.3, appendix D.4): a fully-convolutional network on VOC.

The network and its training are those of MoCo (He et al., arXiv 1911.05722, appendix A.5). The
learning rate is chosen on images held out of the training set, then the network is trained anew on
all of it.
"""

import dataclasses
from collections.abc import Iterable

import keras
import ml_collections
import numpy as np
import tensorflow as tf
from absl import logging
from keras import layers

from byol_tf.errors import UserError
from byol_tf.evaluation.dense import pairs
from byol_tf.evaluation.dense.masks import VOID, checked_pairs, evaluation_pairs, training_batches
from byol_tf.evaluation.dense.voc import open_voc
from byol_tf.evaluation.evaluated_encoder import EvaluatedEncoder
from byol_tf.evaluation.splits import Splits
from byol_tf.models.networks import BatchNorm
from byol_tf.models.stages import stage_outputs


@dataclasses.dataclass(frozen=True)
class SegmentationResult:
    """Intersection over union, in [0, 1], from one confusion matrix over all test pixels.

    Attributes:
        mean_iou: mean of `iou`.
        iou: of each class, `background` included. A class that is neither in the truth nor in the
            prediction has none, and is left out.
        learning_rate: the one chosen.
        validation_mean_iou: on the held-out images by learning rate, 0 where training diverged;
            empty where there was one rate only.
        num_test: test images.
    """

    mean_iou: float
    iou: dict[str, float]
    learning_rate: float
    validation_mean_iou: dict[float, float]
    num_test: int

    def cells(self) -> dict[str, str]:
        """Of the results table: header -> text."""
        return {"segmentation mIoU, %": f"{100 * self.mean_iou:.1f}"}


def evaluate(
    pretrained: EvaluatedEncoder, task: Splits, config: ml_collections.ConfigDict
) -> SegmentationResult:
    """Runs the protocol.

    Args:
        pretrained: fine-tuned as a whole, on images of any size; of its preprocessing only the
            normalisation is used.
        task: its train and test are `voc:ROOT:SPLIT`.
        config: section `segmentation`.

    Raises:
        UserError: a bad value, split or mask, an encoder that cannot be trained, or training that
            diverged.
    """
    _check_config(config)
    _network(pretrained, 2, config, task.seed)  # An encoder that has no stages is an error now.
    train, test = open_voc(task.train, "Segmentation"), open_voc(task.test, "Segmentation")
    if train.class_names != test.class_names:
        raise UserError(
            f"'{train.name}' and '{test.name}' do not have the same classes "
            f"({', '.join(train.class_names)} and {', '.join(test.class_names)}); give two splits "
            "of one data set."
        )
    train_pairs, test_pairs = checked_pairs(train), checked_pairs(test)
    num_classes = 1 + len(train.class_names)

    def trained(pairs, learning_rate):
        model = _network(pretrained, num_classes, config, task.seed)
        data = training_batches(pairs, pretrained.preprocessing, config, task.seed)
        logging.info("segmentation: %d images, learning rate %g", len(pairs), learning_rate)
        pairs.fit(model, segmentation_loss, data, learning_rate, config)
        return model

    def confusion(model, pairs):
        examples = evaluation_pairs(pairs, pretrained.preprocessing, config.crop_size)
        return _confusion(model, examples, num_classes)

    validation = {}
    if len(config.learning_rates) > 1:
        held_out, kept = _split(train_pairs, config.validation_fraction, task.seed)
        for rate in map(float, config.learning_rates):
            try:
                validation[rate] = mean_iou(confusion(trained(kept, rate), held_out))
            except pairs.Diverged as error:
                logging.warning("%s", error)
                validation[rate] = 0.0
            logging.info("learning rate %g: validation mIoU %.3f", rate, validation[rate])
    learning_rate = float(
        max(validation, key=validation.get) if validation else config.learning_rates[0]
    )
    matrix = confusion(trained(train_pairs, learning_rate), test_pairs)
    iou = dict(zip(("background", *train.class_names), class_iou(matrix).tolist(), strict=True))
    return SegmentationResult(
        mean_iou=mean_iou(matrix),
        iou={name: value for name, value in iou.items() if np.isfinite(value)},
        learning_rate=learning_rate,
        validation_mean_iou=validation,
        num_test=len(test_pairs),
    )


def build_fcn(encoder: keras.Model, num_classes: int, channels: int, dilation: int) -> keras.Model:
    """The network: dilated c5, two dilated 3x3 convolutions, a 1x1 convolution, upsampling.

    Args:
        encoder: as `stages.stage_outputs` takes it; its weights are copied.
        num_classes: C, background included.
        channels, dilation: of the two convolutions.

    Returns:
        float32 [B, H, W, 3] -> logits float32 [B, H, W, C].
    """
    stages = stage_outputs(encoder, dilated_c5=True)
    x = stages.output["c5"]
    for name in ("segmentation_1", "segmentation_2"):
        x = layers.Conv2D(
            channels,
            3,
            padding="same",
            dilation_rate=dilation,
            use_bias=False,
            kernel_initializer="he_normal",
            name=f"{name}_conv",
        )(x)
        x = layers.ReLU(name=f"{name}_relu")(BatchNorm(name=f"{name}_bn")(x))
    logits = layers.Conv2D(num_classes, 1, name="segmentation_logits")(x)
    logits = tf.image.resize(logits, tf.shape(stages.input)[1:3])  # Bilinear.
    return keras.Model(stages.input, logits, name="fcn")


def segmentation_loss(mask: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Mean cross-entropy of the pixels that are not void: uint8 [B, H, W], [B, H, W, C] -> []."""
    labelled = mask != VOID
    labels = tf.cast(tf.where(labelled, mask, 0), tf.int32)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    labelled = tf.cast(labelled, losses.dtype)
    return tf.math.divide_no_nan(tf.reduce_sum(losses * labelled), tf.reduce_sum(labelled))


def confusion_matrix(truth: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts of pixels that are not void: ids [...] and [...] -> int64 [truth, predicted]."""
    labelled = truth != VOID
    cells = num_classes * truth[labelled].astype(np.int64) + predicted[labelled]
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def class_iou(matrix: np.ndarray) -> np.ndarray:
    """Intersection over union of each class, float64 [C]; NaN of those that occur nowhere."""
    intersection = np.diag(matrix)
    union = matrix.sum(axis=0) + matrix.sum(axis=1) - intersection
    return np.where(union > 0, intersection / np.maximum(union, 1), np.nan)


def mean_iou(matrix: np.ndarray) -> float:
    """Mean over the classes that occur in the truth or in the prediction."""
    return float(np.nanmean(class_iou(matrix)))


def _check_config(config) -> None:
    pairs.check_training("segmentation", config)
    rates, scale = config.learning_rates, config.scale
    for field, fits, wanted in (
        ("learning_rates", len(rates) >= 1 and all(rate > 0 for rate in rates), "positive numbers"),
        ("scale", len(scale) == 2 and 0 < scale[0] <= scale[1], "two positive numbers, low, high"),
        ("crop_size", config.crop_size >= 1, "at least 1 pixel"),
        ("channels", config.channels >= 1, "at least 1"),
        ("dilation", config.dilation >= 1, "at least 1"),
        ("validation_fraction", 0 < config.validation_fraction < 1, "a number in (0, 1)"),
    ):
        if not fits:
            raise UserError(f"segmentation.{field} is {config[field]}; give {wanted}.")


def _network(pretrained: EvaluatedEncoder, num_classes: int, config, seed: int) -> keras.Model:
    encoder = pretrained.trainable()
    keras.utils.set_random_seed(seed)  # Of the weights that are new.
    return build_fcn(encoder, num_classes, config.channels, config.dilation)


def _split(pairs, fraction: float, seed: int):
    """Pairs held out, pairs kept."""
    count = round(fraction * len(pairs))
    if not 0 < count < len(pairs):
        raise UserError(
            f"{len(pairs)} training images are too few to hold out {fraction:.0%} of them to "
            "choose the learning rate; give more, or one value in segmentation.learning_rates."
        )
    shuffled = [pairs[index] for index in np.random.default_rng(seed).permutation(len(pairs))]
    return shuffled[:count], shuffled[count:]


def _confusion(model, examples: Iterable, num_classes: int) -> np.ndarray:
    signature = [tf.TensorSpec([None, None, None, 3], tf.float32)]

    @tf.function(autograph=False, input_signature=signature)
    def predict(images):
        return tf.argmax(model(images, training=False), axis=-1)

    matrix = np.zeros((num_classes, num_classes), np.int64)
    for images, masks in examples:
        matrix += confusion_matrix(masks.numpy(), predict(images).numpy(), num_classes)
    return matrix
