"""All fields of a config, with the values recipes share; a recipe sets only what differs.

The numbers are those of the paper's appendix B and of its authors' code.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import ml_collections

from byol_tf.errors import UserError
from byol_tf.images.view_config import COLOR_FIELDS, VIEW_1, VIEW_2, VIEW_SMALL

RGB = 3
MAX_CHANNELS = 64
_VIEWS = ("view_1", "view_2", "view_small")


def get_config() -> ml_collections.ConfigDict:
    """Returns the common fields; a recipe must set `epochs`, `batch_size` and `image_size`."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.epochs = ml_collections.config_dict.placeholder(int)
    config.batch_size = ml_collections.config_dict.placeholder(int)  # global, images
    config.image_size = ml_collections.config_dict.placeholder(int)  # pixels
    config.channels = 3  # of the images, at most 64; see set_channels
    config.bit_depth = 8  # or 16
    config.precision = "auto"  # or float32, mixed_bfloat16, mixed_float16

    config.encoder = ml_collections.ConfigDict()
    # Or vit, ConvNeXtTiny (keras.applications), ViTBackbone (KerasHub), module.function; the other
    # fields are its arguments, these are resnet's.
    config.encoder.name = "resnet"
    config.encoder.depth = 50
    config.encoder.width = 1.0
    config.encoder.stem = "imagenet"  # or small, lightly, solo-learn
    config.encoder.zero_init_last_gamma = True
    config.encoder.norm = "batch"  # or group: no batch statistics, weight-standardised convolutions
    config.encoder.padding = "same"  # or symmetric, PyTorch's
    config.encoder.c2_projection = False  # True: as in the authors' ResNet-18 and 34
    # A file, a run, a SavedModel or imagenet, to start from; see docs/weights.md.
    config.encoder.weights = ml_collections.config_dict.placeholder(str)
    # or simclr, simsiam, vicreg, or the dotted name of a TwoViewModel of your own
    config.method = "byol"
    config.projection_size = 256
    config.hidden_size = 4096
    config.projector_layers = 2  # Dense layers, the output's included
    config.predictor_layers = 2
    config.head_norm = "batch"  # or group
    config.base_ema = 0.99  # byol: τ₀
    config.constant_ema = False  # byol: τ stays τ₀, for ablations
    config.predictor = True  # byol: False only for ablations
    config.temperature = 0.1  # simclr
    config.invariance_weight = 25.0  # vicreg: λ, μ, ν
    config.variance_weight = 25.0
    config.covariance_weight = 1.0
    config.micro_batches = 1  # N: gradient accumulation over N parts of each batch, to save memory

    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.name = "lars"  # or lamb, adamw, sgd
    config.optimizer.base_lr = 0.3  # for a batch of 256; scaled linearly
    config.optimizer.weight_decay = 1e-6
    config.optimizer.momentum = 0.9  # lamb and adamw: β₁
    config.optimizer.trust_coefficient = 1e-3  # lars only
    config.optimizer.clip = False  # lars only: LARC, the trust ratio capped by the rate
    config.optimizer.warmup_epochs = 10.0

    config.augment = ml_collections.ConfigDict()
    config.augment.run_on = "host"  # or device: inside train_step
    config.augment.view_1 = ml_collections.ConfigDict(dataclasses.asdict(VIEW_1))
    config.augment.view_2 = ml_collections.ConfigDict(dataclasses.asdict(VIEW_2))
    config.augment.small_crops = 0  # byol and simsiam: N, multi-crop; crops beside the two views
    config.augment.small_crop_size = 96  # pixels
    config.augment.view_small = ml_collections.ConfigDict(dataclasses.asdict(VIEW_SMALL))
    config.normalize = ml_collections.ConfigDict()
    # ImageNet's, of RGB in [0, 1]; () is measured on the training images.
    config.normalize.mean = (0.485, 0.456, 0.406)
    config.normalize.std = (0.229, 0.224, 0.225)
    config.eval_crop_fraction = 0.875  # of the shorter side, for evaluation and serving
    config.eval_resize = "bicubic"  # or bilinear, torchvision's

    config.data = ml_collections.ConfigDict()
    config.data.shuffle_buffer = 10_000  # records; TFRecord and TFDS sources only
    config.data.max_corrupt_fraction = 0.01

    config.online_classifier = True  # if the data have labels; reports, never trains the encoder
    config.knn_every_epochs = 10  # 0 means never
    config.knn_examples = 5_000
    config.checkpoint_every_steps = 1_000
    config.logger = ""  # or mlflow, wandb: an experiment tracker beside TensorBoard
    return config


def set_channels(config: ml_collections.ConfigDict, channels: int) -> None:
    """Makes a recipe for RGB one for images of another number of channels.

    What only colours have (saturation, hue, the conversion to grey) is switched off, and the
    normalisation is measured on the training images.

    Args:
        config: Config to change.
        channels: Number of channels.
    """
    config.channels = channels
    if channels == RGB:
        return
    for name in _VIEWS:
        config.augment[name].update(dict.fromkeys(COLOR_FIELDS, 0.0))
    config.normalize.mean = config.normalize.std = ()


def check_channels(config: ml_collections.ConfigDict) -> None:
    """Checks the fields that depend on the number of channels, and the depth.

    Raises:
        UserError: `channels` or `bit_depth` is out of range, or `normalize` or `augment` does not
            fit the channels.
    """
    # Runs from before there were others do not say them.
    channels, bit_depth = config.get("channels", RGB), config.get("bit_depth", 8)
    if type(channels) is not int or not 1 <= channels <= MAX_CHANNELS:
        raise UserError(f"channels is {channels!r}; give a whole number from 1 to {MAX_CHANNELS}.")
    if bit_depth not in (8, 16):
        raise UserError(f"bit_depth is {bit_depth!r}; give 8 or 16.")
    lengths = len(config.normalize.mean), len(config.normalize.std)
    if lengths not in ((0, 0), (channels, channels)):
        raise UserError(
            f"config.channels is {channels}, but config.normalize.mean has {lengths[0]} values and "
            f"config.normalize.std {lengths[1]}; give --config.normalize.mean and "
            f"--config.normalize.std with {channels} each, or both as '()' to measure them on the "
            "training images."
        )
    colored = [
        f"--config.augment.{name}.{field}=0"
        for name in _VIEWS
        if name in config.augment  # Runs from before multi-crop have no view_small.
        for field in COLOR_FIELDS
        if config.augment[name][field] > 0
    ]
    if channels != RGB and colored:
        raise UserError(
            f"config.channels is {channels}, and saturation, hue and the conversion to grey need "
            f"RGB; give {' '.join(colored)}, or call defaults.set_channels in the recipe."
        )


def check_argument(recipe: str, arg: str, known: Sequence[str] = ("smoke",)) -> None:
    """Refuses an argument that a recipe does not have.

    Args:
        recipe: Name of the recipe.
        arg: What follows the colon in `--config=NAME:ARG`.
        known: Arguments that the recipe has.

    Raises:
        UserError: `arg` is not in `known`.
    """
    if arg not in known:
        raise UserError(
            f"the recipe {recipe}:{arg} is unknown; give "
            f"{', '.join([recipe, *(f'{recipe}:{one}' for one in known)])}."
        )


def set_encoder(config: ml_collections.ConfigDict, name: str, **arguments: Any) -> None:
    """Replaces the encoder of a config, whose fields only that encoder takes, by another.

    Args:
        config: Config to change.
        name: Name of the encoder, see `backbones.build`.
        **arguments: Arguments that differ from the encoder's own defaults.
    """
    fields = get_config().encoder.to_dict()
    if name != "resnet":
        fields = {"name": name, "weights": fields["weights"]}
    config.encoder = ml_collections.ConfigDict(fields | arguments)


def smoke(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Shrinks a recipe to a tiny network, 32 pixels and one epoch of small batches."""
    config.epochs = 1
    config.batch_size = 8
    config.image_size = 32
    config.augment.small_crop_size = 16
    config.encoder.depth = 10
    # Not less: oneDNN writes past its buffers in the gradient of 1x1 convolutions of stride 2 with
    # fewer than 16 input channels (uxlfoundation/oneDNN issue 6035).
    config.encoder.width = 0.25
    config.encoder.stem = "small"
    config.projection_size = 16
    config.hidden_size = 32
    config.optimizer.warmup_epochs = 0.1
    config.knn_every_epochs = 1
    config.knn_examples = 64
    return config
