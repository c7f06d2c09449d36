"""The recipe of `make demo`: a quarter-width ResNet-18 on examples/images, trained in minutes.

byol-pretrain --config=cifar10_demo --data_dir=examples/images/train --run_dir=demo/run
"""

import ml_collections

from byol_tf.configs import cifar10, defaults


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Returns the recipe; `arg` is empty or `smoke`."""
    if arg:
        defaults.check_argument("cifar10_demo", arg)
    config = cifar10.get_config()
    config.epochs = 40
    config.batch_size = 128
    config.encoder.width = 0.25
    config.hidden_size = 1024
    # A short run needs larger steps and a target that follows faster.
    config.optimizer.base_lr = 4.0
    config.optimizer.warmup_epochs = 4.0
    config.base_ema = 0.98
    config.knn_examples = 2_500
    config.knn_every_epochs = 5
    return defaults.smoke(config) if arg == "smoke" else config
