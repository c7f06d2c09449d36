"""The protocols of evaluation, a section each, with the paper's numbers (arXiv 2006.07733, appendices C and D).

    byol-evaluate --protocol=linear,semi_supervised --config.linear.views=80 ...
"""

import ml_collections


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """`arg`: nothing."""
    if arg:
        raise ValueError(f"evaluation:{arg} is unknown; evaluation takes no argument.")
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
    # Random crops and flips of each training image; each is a pass of the encoder. The paper's protocol is one an
    # epoch, 80; 0 trains on centre crops.
    config.linear.views = 4
    return config
