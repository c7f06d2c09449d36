"""SimSiam on CIFAR-10: ResNet-18 with the small stem, batch 512, 800 epochs.

    byol-pretrain --config=simsiam_cifar10 --data_dir=cifar10/train --run_dir=runs/simsiam

The numbers are those of Chen and He 2021 (arXiv 2011.10566, appendix D): SGD, 0.03 per 256 images,
weight decay 5e-4, a projector of two layers, no blur. Reference: 91.8 % in linear evaluation. We
have not run it.
"""

import ml_collections

from byol_tf.configs import cifar10, defaults, simsiam


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Returns the recipe; `arg` is empty or `smoke`."""
    if arg:
        defaults.check_argument("simsiam_cifar10", arg)
    config = cifar10.get_config()
    config.method = "simsiam"
    config.epochs = 800
    config.projection_size = 2048
    config.hidden_size = 2048
    simsiam.optimize(config, base_lr=0.03, weight_decay=5e-4)
    for view in (config.augment.view_1, config.augment.view_2):
        view.saturation = 0.4
        view.solarize_prob = 0.0
    config.augment.view_small.saturation = 0.4
    return defaults.smoke(config) if arg == "smoke" else config
