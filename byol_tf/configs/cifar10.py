"""CIFAR-10 and other sets of 32x32 images: ResNet-18 with the small stem.

    byol-pretrain --config=cifar10 --data_dir=cifar10/train --run_dir=runs/cifar10

Reference: kNN 86.8 % in the best epoch of 200 (lightly). We have not run it at this size;
docs/results/ has what we ran.

`cifar10:larc` has the optimizer, crops, batch and epochs of solo-learn, whose ResNet-18 reaches
92.6 % online linear accuracy: LARS with a trust coefficient of 0.02 and the trust ratio capped by
the rate, weight decay 1e-5, batch 256, 1000 epochs. A rate of 1.0 means another thing there: it is
the most that a layer's own rate can be. We have not run it.

`cifar10:lightly` has the network, views, optimizer and batch of lightly's benchmark script, so that
both train the same thing (benchmarks/lightly_parity.py compares them step by step).

The recipe differs from the ImageNet recipe as is usual for 32 pixels: batch 512, no blur (its
kernel would be 3 pixels), a crop of at least 20 % of the area, the whole image for evaluation, and
a learning rate of 1.0 per 256 images.
"""

import ml_collections

from byol_tf.configs import defaults


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Returns the recipe; `arg` is empty, `larc`, `lightly` or `smoke`."""
    if arg:
        defaults.check_argument("cifar10", arg, ("larc", "lightly", "smoke"))
    config = defaults.get_config()
    config.epochs = 200
    config.batch_size = 512
    config.image_size = 32
    config.encoder.depth = 18
    config.encoder.stem = "small"
    config.hidden_size = 4096
    config.base_ema = 0.99
    config.temperature = 0.5
    config.optimizer.base_lr = 1.0
    for view in (config.augment.view_1, config.augment.view_2):
        view.crop_area = (0.2, 1.0)
        view.blur_prob = 0.0
    # If augment.small_crops is set; the area is that of solo-learn's crops of 18 pixels.
    config.augment.small_crop_size = 16
    config.augment.view_small.crop_area = (0.08, 0.5)
    config.augment.view_small.blur_prob = 0.0
    config.normalize.mean = (0.4914, 0.4822, 0.4465)
    config.normalize.std = (0.2470, 0.2435, 0.2616)
    config.eval_crop_fraction = 1.0
    config.checkpoint_every_steps = 500
    if arg == "larc":
        larc(config)
    if arg == "lightly":
        lightly(config)
    return defaults.smoke(config) if arg == "smoke" else config


def larc(config: ml_collections.ConfigDict) -> None:
    """Sets what solo-learn's recipes for CIFAR-10 have in common: clipped LARS, 1000 epochs."""
    config.epochs = 1000
    config.batch_size = 256
    config.optimizer.clip = True
    config.optimizer.trust_coefficient = 0.02
    config.optimizer.weight_decay = 1e-5
    for view in (config.augment.view_1, config.augment.view_2):
        view.crop_area = (0.08, 1.0)


def lightly(config: ml_collections.ConfigDict) -> None:
    """Sets lightly's recipe: SGD without warm-up, a constant τ, heads of 1024, its ResNet-18.

    lightly's loss, the mean of -cos over both directions, is a quarter of ours without its constant
    4. Its rate of 0.06 per 128 images and decay of 5e-4 give the same steps with ours as 0.03 per
    256 and 2e-3. (lightly decays biases and normalisation parameters too.)
    """
    config.batch_size = 128
    config.encoder.stem = "lightly"
    config.encoder.padding = "symmetric"
    config.encoder.zero_init_last_gamma = False
    config.hidden_size = 1024
    config.constant_ema = True
    config.optimizer.name = "sgd"
    config.optimizer.base_lr = 0.06 * 2 / 4
    config.optimizer.weight_decay = 5e-4 * 4
    config.optimizer.warmup_epochs = 0.0
    for view in (config.augment.view_1, config.augment.view_2):
        view.crop_area = (0.08, 1.0)
    config.normalize = defaults.get_config().normalize
