"""VICReg on CIFAR-10: ResNet-18 with the small stem, batch 256, 1000 epochs.

    byol-pretrain --config=vicreg_cifar10 --data_dir=cifar10/train --run_dir=runs/vicreg

The paper has no CIFAR-10; the numbers are solo-learn's: clipped LARS (`cifar10:larc`) with 0.3 per
256 images and weight decay 1e-4, a projector of three layers of 2048, crops of at least 20 % of the
area, solarization of every tenth view, weights 25, 25 and 1. It sums the variance terms of the
views, which are averaged here as in the authors' code, so that its 25 is 50 here. Reference: 92.1 %
online linear accuracy. We have not run it.
"""

import ml_collections

from byol_tf.configs import cifar10, defaults


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Returns the recipe; `arg` is empty or `smoke`."""
    if arg:
        defaults.check_argument("vicreg_cifar10", arg)
    config = cifar10.get_config("larc")
    config.method = "vicreg"
    config.projection_size = 2048
    config.hidden_size = 2048
    config.projector_layers = 3
    config.variance_weight = 50.0
    config.optimizer.base_lr = 0.3
    config.optimizer.weight_decay = 1e-4
    for view in (config.augment.view_1, config.augment.view_2):
        view.crop_area = (0.2, 1.0)
        view.solarize_prob = 0.1
    return defaults.smoke(config) if arg == "smoke" else config
