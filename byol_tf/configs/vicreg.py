"""VICReg on ImageNet: ResNet-50, batch 2048, 1000 epochs.

    byol-pretrain --config=vicreg --data_dir=imagenet/train --run_dir=runs/vicreg --strategy=tpu

The numbers are those of Bardes, Ponce and LeCun 2022 (arXiv 2105.04906, section 4.2) and of their
code: BYOL's views, LARS with 0.2 per 256 images, weight decay 1e-6, 10 epochs of warm-up, an
expander 8192-8192-8192, weights 25, 25 and 1. Reference: 73.2 % top-1 in linear evaluation. We have
not run it.

It differs in the end of the cosine, which is 0 here and 0.1 % of the rate in their code.
"""

import ml_collections

from byol_tf.configs import defaults


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Returns the recipe; `arg` is empty or `smoke`."""
    if arg:
        defaults.check_argument("vicreg", arg)
    config = defaults.get_config()
    config.method = "vicreg"
    config.epochs = 1000
    config.batch_size = 2048
    config.image_size = 224
    config.projection_size = 8192
    config.hidden_size = 8192
    config.projector_layers = 3
    config.optimizer.base_lr = 0.2
    return defaults.smoke(config) if arg == "smoke" else config
