"""SimCLR on CIFAR-10: ResNet-18 with the small stem.

    byol-pretrain --config=simclr_cifar10 --data_dir=cifar10/train --run_dir=runs/simclr

The numbers are those of Chen et al. 2020, appendix B.9, where they differ from ImageNet's:
temperature 0.5, learning rate 1.0 per 256 images, colour distortion of strength 0.5, no blur. The
rest, and the crop of at least 20 % of the area, is that of the recipe cifar10, so that the two
methods differ in nothing else. We have not run it at this size.
"""

import ml_collections

from byol_tf.configs import cifar10, defaults, simclr


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Returns the recipe; `arg` is empty or `smoke`."""
    if arg:
        defaults.check_argument("simclr_cifar10", arg)
    config = cifar10.get_config()
    config.method = "simclr"
    config.projection_size = 128
    config.hidden_size = 2048
    simclr.augment(config, strength=0.5)
    for view in (config.augment.view_1, config.augment.view_2):
        view.blur_prob = 0.0
    return defaults.smoke(config) if arg == "smoke" else config
