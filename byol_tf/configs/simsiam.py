"""SimSiam on ImageNet: ResNet-50, batch 512; 100, 200, 400 or 800 epochs.

    byol-pretrain --config=simsiam:100 --data_dir=imagenet/train --run_dir=runs/simsiam

The numbers are those of Chen and He 2021 (arXiv 2011.10566, section 3) and of their code: SGD with
momentum 0.9, 0.05 per 256 images, weight decay 1e-4, a cosine without warm-up, a projector of three
layers, crops of at least 20 % of the area. Reference: 68.1 % top-1 in linear evaluation after 100
epochs, 71.3 % after 800 (table 4). We have not run it.

It differs in the weight decay, from which biases and BatchNorm are exempt here, and in the rate of
the predictor, which decays like the others (in the paper's code that is a flag).
"""

import ml_collections

from byol_tf.configs import defaults

EPOCHS = (100, 200, 400, 800)


def get_config(arg: str = "100") -> ml_collections.ConfigDict:
    """Returns the recipe; `arg` is the number of epochs, one of `EPOCHS`, or `smoke`."""
    defaults.check_argument("simsiam", arg, [*map(str, EPOCHS), "smoke"])
    config = defaults.get_config()
    config.method = "simsiam"
    config.epochs = 100 if arg == "smoke" else int(arg)
    config.batch_size = 512
    config.image_size = 224
    config.projection_size = 2048
    config.hidden_size = 2048
    config.projector_layers = 3
    optimize(config, base_lr=0.05, weight_decay=1e-4)
    for view in (config.augment.view_1, config.augment.view_2):
        view.crop_area = (0.2, 1.0)
        view.saturation = 0.4
        view.blur_prob = 0.5
        view.solarize_prob = 0.0
    config.augment.view_small.saturation = 0.4
    return defaults.smoke(config) if arg == "smoke" else config


def optimize(config: ml_collections.ConfigDict, base_lr: float, weight_decay: float) -> None:
    """Sets SGD without warm-up, as the paper has it for all data sets."""
    config.optimizer.name = "sgd"
    config.optimizer.base_lr = base_lr
    config.optimizer.weight_decay = weight_decay
    config.optimizer.warmup_epochs = 0.0
