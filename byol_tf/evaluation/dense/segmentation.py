"""Semantic segmentation (paper section 4.3, appendix D.4): a fully-convolutional network on VOC.

The network and its training are those of MoCo (He et al., arXiv 1911.05722, appendix A.5). The
learning rate is chosen on images held out of the training set, then the network is retrained on all
of it.
"""

import dataclasses
from collections.abc import Sequence

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
from byol_tf.evaluation.finetuner import Diverged
from byol_tf.evaluation.splits import Splits
from byol_tf.models.networks import BatchNorm
from byol_tf.models.stages import resized_to, stage_outputs


@dataclasses.dataclass(frozen=True)
class SegmentationResult:
    """Intersection over union, in [0, 1], from one confusion matrix over all test pixels.

    Attributes:
        mean_iou: Mean of `iou`.
        iou: IoU of each class, including `background`. Classes that are neither in the truth nor in
            the prediction are left out.
        learning_rate: Learning rate chosen.
        validation_mean_iou: Mean IoU on the held-out images by learning rate, 0 where training
            diverged; empty if there was only one rate.
        num_test: Number of test images.
    """

    mean_iou: float
    iou: dict[str, float]
    learning_rate: float
    validation_mean_iou: dict[float, float]
    num_test: int

    def cells(self) -> dict[str, str]:
        """Returns the cells of the results table by header."""
        return {"segmentation mIoU, %": f"{100 * self.mean_iou:.1f}"}


def evaluate(
    encoder: EvaluatedEncoder, splits: Splits, config: ml_collections.ConfigDict
) -> SegmentationResult:
    """Runs the protocol.

    Args:
        encoder: Encoder, fine-tuned as a whole on images of any size; of its preprocessing only the
            normalisation is used.
        splits: Splits whose train and test are `voc:ROOT:SPLIT`.
        config: Section `segmentation`.

    Raises:
        UserError: A value, split or mask is bad, the encoder cannot be trained, or training
            diverged.
    """
    _check_config(config)
    _network(
        encoder, 2, config, splits.seed
    )  # An encoder without stages fails here, before images are checked.
    train, test = open_voc(splits.train, "Segmentation"), open_voc(splits.test, "Segmentation")
    if train.class_names != test.class_names:
        raise UserError(
            f"'{train.name}' and '{test.name}' do not have the same classes "
            f"({', '.join(train.class_names)} and {', '.join(test.class_names)}); give two splits "
            "of one data set."
        )
    decode = encoder.preprocessing.decode
    train_pairs, test_pairs = checked_pairs(train, decode), checked_pairs(test, decode)
    num_classes = 1 + len(train.class_names)

    def trained(paths: Sequence[tuple[str, str]], learning_rate: float) -> keras.Model:
        model = _network(encoder, num_classes, config, splits.seed)
        data = training_batches(paths, encoder.preprocessing, config, splits.seed)
        logging.info("segmentation: %d images, learning rate %g", len(paths), learning_rate)
        pairs.fit(model, segmentation_loss, data, learning_rate, config)
        return model

    def confusion(model: keras.Model, paths: Sequence[tuple[str, str]]) -> np.ndarray:
        examples = evaluation_pairs(paths, encoder.preprocessing, config.crop_size)
        return _confusion(model, examples, num_classes)

    validation: dict[float, float] = {}
    if len(config.learning_rates) > 1:
        held_out, kept = _split(train_pairs, config.validation_fraction, splits.seed)
        for rate in map(float, config.learning_rates):
            try:
                validation[rate] = mean_iou(confusion(trained(kept, rate), held_out))
            except Diverged as error:
                logging.warning("%s", error)
                validation[rate] = 0.0
            logging.info("learning rate %g: validation mIoU %.3f", rate, validation[rate])
    rates = map(float, config.learning_rates)  # Ties go to the first.
    learning_rate = max(rates, key=lambda rate: validation.get(rate, 0.0))
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
    """Builds dilated c5, two dilated 3x3 convolutions, a 1x1 convolution and upsampling.

    Args:
        encoder: Encoder as `stages.stage_outputs` takes it; its weights are copied.
        num_classes: Number of classes C, including background.
        channels, dilation: Settings of the two 3x3 convolutions.

    Returns:
        A model float32 `[B, H, W, D]` -> logits float32 `[B, H, W, C]`.
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
    (images,) = stages.inputs
    return keras.Model(images, resized_to(images, logits), name="fcn")


def segmentation_loss(mask: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Computes the mean cross-entropy of non-void pixels: `[B, H, W]`, `[B, H, W, C]` -> `[]`."""
    labelled = mask != VOID
    labels = tf.cast(tf.where(labelled, mask, 0), tf.int32)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    labelled = tf.cast(labelled, losses.dtype)
    return tf.math.divide_no_nan(tf.reduce_sum(losses * labelled), tf.reduce_sum(labelled))


def confusion_matrix(truth: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts non-void pixels: class IDs `[...]`, `[...]` -> int64 `[C, C]`, truth by prediction."""
    labelled = truth != VOID
    cells = num_classes * truth[labelled].astype(np.int64) + predicted[labelled]
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def class_iou(matrix: np.ndarray) -> np.ndarray:
    """Returns the intersection over union of each class, float64 `[C]`; NaN if it never occurs."""
    intersection = np.diag(matrix)
    union = matrix.sum(axis=0) + matrix.sum(axis=1) - intersection
    return np.where(union > 0, intersection / np.maximum(union, 1), np.nan)


def mean_iou(matrix: np.ndarray) -> float:
    """Returns the mean IoU of the classes that occur in the truth or in the prediction."""
    return float(np.nanmean(class_iou(matrix)))


def _check_config(config: ml_collections.ConfigDict) -> None:
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


def _network(
    encoder: EvaluatedEncoder, num_classes: int, config: ml_collections.ConfigDict, seed: int
) -> keras.Model:
    backbone = encoder.trainable()
    keras.utils.set_random_seed(seed)  # For the new weights.
    return build_fcn(backbone, num_classes, config.channels, config.dilation)


def _split(
    paths: Sequence[tuple[str, str]], fraction: float, seed: int
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Returns the pairs held out and the pairs kept."""
    count = round(fraction * len(paths))
    if not 0 < count < len(paths):
        raise UserError(
            f"{len(paths)} training images are too few to hold out {fraction:.0%} of them for "
            "choosing the learning rate; give more, or one value in segmentation.learning_rates."
        )
    shuffled = [paths[index] for index in np.random.default_rng(seed).permutation(len(paths))]
    return shuffled[:count], shuffled[count:]


def _confusion(model: keras.Model, examples: tf.data.Dataset, num_classes: int) -> np.ndarray:
    signature = [tf.TensorSpec([None, None, None, model.input_shape[-1]], tf.float32)]

    @tf.function(autograph=False, input_signature=signature)
    def predict(images):
        return tf.argmax(model(images, training=False), axis=-1)

    matrix = np.zeros((num_classes, num_classes), np.int64)
    for images, masks in examples:
        matrix += confusion_matrix(masks.numpy(), predict(images).numpy(), num_classes)
    return matrix
