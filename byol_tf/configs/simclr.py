"""SimCLR on ImageNet: ResNet-50, batch 4096; 100, 300 or 1000 epochs.

    byol-pretrain --config=simclr:300 --data_dir=imagenet/train --run_dir=runs/simclr --strategy=tpu

The numbers are those of Chen et al. 2020 (arXiv 2002.05709, sections 2.2 and 3.1, appendices A and
B.6): LARS, 0.3 per 256 images, weight decay 1e-6, temperature 0.1, projections of 128 values,
colour distortion of strength 1, blur with probability 0.5, no solarization. We have not run it.

The colour distortions are those of the paper's own code: in random order, the brightness added. The
authors' later code (SimCLR v2, tf2/) multiplies the brightness. docs/recipes.md has what differs.
"""

import ml_collections

from byol_tf.configs import defaults

EPOCHS = (100, 300, 1000)


def get_config(arg: str = "1000") -> ml_collections.ConfigDict:
    """Returns the recipe; `arg` is the number of epochs, one of `EPOCHS`, or `smoke`."""
    defaults.check_argument("simclr", arg, [*map(str, EPOCHS), "smoke"])
    epochs = 1000 if arg == "smoke" else int(arg)
    config = defaults.get_config()
    config.method = "simclr"
    config.epochs = epochs
    config.batch_size = 4096
    config.image_size = 224
    config.projection_size = 128
    config.hidden_size = 2048
    config.temperature = 0.1
    augment(config, strength=1.0)
    return defaults.smoke(config) if arg == "smoke" else config


def augment(config: ml_collections.ConfigDict, strength: float) -> None:
    """Sets both views to SimCLR's distribution (appendix A).

    Args:
        config: Config to change.
        strength: Strength of the colour distortion.
    """
    for view in (config.augment.view_1, config.augment.view_2):
        view.brightness = view.contrast = view.saturation = 0.8 * strength
        view.hue = 0.2 * strength
        view.blur_prob = 0.5
        view.solarize_prob = 0.0
