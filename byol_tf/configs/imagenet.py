"""The paper's ImageNet recipe: ResNet-50, batch 4096; 40, 100, 300 or 1000 epochs.

    byol-pretrain --config=imagenet:1000 --data_dir=imagenet/train --run_dir=runs/imagenet \\
        --strategy=tpu

Reference (paper table 1 and the authors' code), linear evaluation of ResNet-50 after 1000 epochs:
74.3 % top-1, on 512 TPU v3 cores in about 8 hours. We have not run it.
"""

import ml_collections

from byol_tf.configs import defaults

# (base learning rate, weight decay, base EMA) by number of epochs.
PRESETS = {
    40: (0.45, 1e-6, 0.97),
    100: (0.45, 1e-6, 0.99),
    300: (0.3, 1e-6, 0.99),
    1000: (0.2, 1.5e-6, 0.996),
}


def get_config(arg: str = "1000") -> ml_collections.ConfigDict:
    """Returns the recipe; `arg` is the number of epochs, one of `PRESETS`, or `smoke`."""
    defaults.check_argument("imagenet", arg, [*map(str, PRESETS), "smoke"])
    epochs = 1000 if arg == "smoke" else int(arg)
    config = defaults.get_config()
    config.epochs = epochs
    config.batch_size = 4096
    config.image_size = 224
    config.optimizer.base_lr, config.optimizer.weight_decay, config.base_ema = PRESETS[epochs]
    return defaults.smoke(config) if arg == "smoke" else config
