"""ViT-S with AdamW: patches of 16 at 224 pixels, or of 4 at 32 pixels for CIFAR-10.

    byol-pretrain --config=vit_small --data_dir=imagenet/train --run_dir=runs/vit --strategy=tpu
    byol-pretrain --config=vit_small:32 --data_dir=cifar10/train --run_dir=runs/vit

The network is `vit` with MoCo v3's means against the instability of transformers without labels
(Chen et al. 2021, arXiv 2104.02057): a frozen patch projection and fixed positions. AdamW, 1.5e-4
per 256 images, decay 0.1, 40 epochs of warm-up and τ₀ 0.99 are its numbers too. At 32 pixels the
views are those of `cifar10`, and rate and warm-up are ours.

We have run neither at its size. Run: `vit_small:32` at width 96, depth 4 and 3 heads on the 2,500
images of examples/images, batch 128, 15 epochs (285 steps), 3 of warm-up, learning rate 1e-3,
τ₀ 0.98, bfloat16. It does not collapse: loss 3.2 -> 1.55, standard deviation of the projections
0.76 -> 0.81 (0 is collapsed, 1 even), effective rank 14 at its lowest and 23 at the end. It is too
short to learn much: kNN 28.0 % beside 26.8 % of the random network on 500 images, which may be
chance.
"""

import ml_collections

from byol_tf.configs import cifar10, defaults


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Returns the recipe; `arg` is empty, `32` or `smoke`."""
    if arg:
        defaults.check_argument("vit_small", arg, ("32", "smoke"))
    if arg == "32":
        config = cifar10.get_config()
        defaults.set_encoder(config, "vit", patch_size=4)
    else:
        config = defaults.get_config()
        config.epochs = 300
        config.batch_size = 4096
        config.image_size = 224
        defaults.set_encoder(config, "vit")
    config.base_ema = 0.99
    config.optimizer.name = "adamw"
    config.optimizer.base_lr = 5e-4 if arg == "32" else 1.5e-4
    config.optimizer.weight_decay = 0.1
    config.optimizer.warmup_epochs = 20.0 if arg == "32" else 40.0
    if arg == "smoke":
        defaults.smoke(config)
        defaults.set_encoder(config, "vit", patch_size=8, width=16, depth=1, heads=2)
    return config
