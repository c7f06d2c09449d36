"""Evaluation protocols, one section each, with the values of the paper (arXiv 2006.07733).

byol-evaluate --protocol=linear,semi_supervised --config.linear.views=80 ...
"""

import ml_collections

from byol_tf.errors import UserError


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Returns the config; `arg` must be empty."""
    if arg:
        raise UserError(f"evaluation:{arg} is unknown; evaluation takes no argument.")
    config = ml_collections.ConfigDict()

    # Wu et al. 2018; not in the paper.
    config.knn = ml_collections.ConfigDict()
    config.knn.k = 200
    config.knn.temperature = 0.07

    config.linear = ml_collections.ConfigDict()
    config.linear.epochs = 80
    config.linear.batch_size = 1024
    config.linear.base_lrs = (0.4, 0.3, 0.2, 0.1, 0.05)  # for a batch of 256
    config.linear.validation_fraction = 0.1
    # Random crops and flips of each training image, each encoded separately. The paper uses one per
    # epoch, 80; 0 trains on centre crops.
    config.linear.views = 4

    # Section 4.2, appendix C.1; no regularisation.
    config.semi_supervised = ml_collections.ConfigDict()
    config.semi_supervised.fractions = (0.01, 0.1)
    # Lists of keys, one per line, instead of draws, such as SimCLR's published 1 % and 10 %:
    # "('1.txt','10.txt')"
    config.semi_supervised.subset_files = ()
    config.semi_supervised.batch_size = 1024  # clipped to the subset
    # For a batch of 256, as in linear; the paper does not say whether it scales them.
    config.semi_supervised.base_lrs = (0.01, 0.02, 0.05, 0.1, 0.005)
    config.semi_supervised.epochs = (30, 50)
    # Upper limit, as is a tenth of the training set. The paper has a local validation set, which
    # for linear evaluation holds 10,009 images.
    config.semi_supervised.validation_examples = 10_000

    # Appendix D.2: strengths of L2 regularisation, logarithmically spaced.
    config.transfer = ml_collections.ConfigDict()
    config.transfer.num_lambdas = 45
    config.transfer.min_lambda = 1e-6
    config.transfer.max_lambda = 1e5
    config.transfer.max_iterations = 1_000
    config.transfer.validation_fraction = 0.1
    # auto: voc07_map for voc:..., else top_1; mean_per_class: Aircraft, Pets, Caltech-101, Flowers
    config.transfer.metric = "auto"

    # Appendix D.3 and SimCLR (arXiv 2002.05709), appendix B.8. The BatchNorm momentum
    # max(1 - 10 / s, 0.9) is from both.
    config.fine_tuning = ml_collections.ConfigDict()
    config.fine_tuning.steps = 20_000
    config.fine_tuning.batch_size = 256
    config.fine_tuning.learning_rates = (1e-4, 10**-3.5, 1e-3, 10**-2.5, 1e-2, 10**-1.5, 1e-1)
    # Before division by the learning rate.
    config.fine_tuning.weight_decays = (0.0, 1e-6, 10**-5.5, 1e-5, 10**-4.5, 1e-4, 10**-3.5, 1e-3)
    # The paper holds out a tenth of Food-101 and CIFAR-10; others have official validation sets.
    config.fine_tuning.validation_fraction = 0.1
    config.fine_tuning.metric = "top_1"  # mean_per_class: Aircraft, Pets, Caltech-101, Flowers

    # Appendix D.4, which takes the network from MoCo (arXiv 1911.05722, appendix A.5).
    config.segmentation = ml_collections.ConfigDict()
    config.segmentation.steps = 30_000
    config.segmentation.batch_size = 16
    config.segmentation.weight_decay = 1e-4  # on kernels; the paper does not say on which weights
    config.segmentation.momentum = 0.9  # not in the paper; usual
    # "5 logarithmically spaced values between 1e-3 and 1e-1"; a single value skips the sweep.
    # MoCo's is 0.003.
    config.segmentation.learning_rates = (1e-3, 10**-2.5, 1e-2, 10**-1.5, 1e-1)
    config.segmentation.decay_at = (0.7, 0.9)  # of the steps; the rate is multiplied by 0.1
    config.segmentation.validation_fraction = 0.2  # the paper holds out 2,119 of 10,582
    config.segmentation.crop_size = 513
    config.segmentation.scale = (0.5, 2.0)
    config.segmentation.channels = 256  # of the two 3x3 convolutions on c5
    config.segmentation.dilation = 6

    # A RetinaNet with rate, momentum and weight decay of Lin et al. 2017 (arXiv 1708.02002,
    # section 4.1) instead of those of the paper's Faster R-CNN (appendix D.5).
    config.detection = ml_collections.ConfigDict()
    # The longer side is scaled to this, a multiple of 32. The small stem's maps are 4 times as
    # wide: 64 is already large there.
    config.detection.image_size = 640
    config.detection.steps = 24_000
    config.detection.batch_size = 16
    config.detection.learning_rate = 0.01  # for a batch of 16
    config.detection.momentum = 0.9
    config.detection.weight_decay = 1e-4
    config.detection.warmup = 1 / 24  # fraction of the steps: 1,000
    config.detection.decay_at = (18 / 24, 22 / 24)  # the rate is multiplied by 0.1

    # Appendix D.6; the network of Laina et al. 2016 (arXiv 1606.00373).
    config.depth = ml_collections.ConfigDict()
    config.depth.steps = 7_500
    config.depth.batch_size = 256
    config.depth.weight_decay = 5e-4  # on kernels; the paper does not say on which weights
    config.depth.momentum = 0.9  # Laina et al.; not in the paper
    config.depth.learning_rate = 0.16
    # Fractions of the steps; the rate is multiplied by 0.1. The paper gives no schedule; Laina
    # et al. lower the rate every 6 to 8 of 20 epochs by a factor they do not state.
    config.depth.decay_at = (0.35, 0.7)
    config.depth.downsample = 0.5
    config.depth.crop = (228, 304)  # height and width, after downsampling
    config.depth.filters = (512, 256, 128, 64)  # of the up-projection blocks
    config.depth.grayscale_prob = 0.3
    config.depth.brightness = 0.1255  # maximum difference
    config.depth.saturation = (0.5, 1.5)  # factor
    config.depth.hue = 0.2  # maximum difference
    return config
