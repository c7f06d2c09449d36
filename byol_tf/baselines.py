"""What a pretrained encoder has to beat."""

import keras

from byol_tf import precision, pretrain
from byol_tf.preprocessing import Preprocessing


def baseline_encoders(config, preprocessing: Preprocessing) -> dict[str, keras.Model]:
    """The encoder of `config` as it was before training, and the preprocessed pixels themselves.

    Args:
        config: of `byol_tf.configs`; its seed decides the random weights.
        preprocessing: gives the images' size.
    """
    keras.utils.set_random_seed(config.seed)
    with precision.policy_scope("float32"):
        random_encoder = pretrain.build_encoder(config)
    size = preprocessing.image_size
    pixels = keras.Sequential([keras.Input((size, size, 3)), keras.layers.Flatten()])
    return {"random encoder": random_encoder, "raw pixels": pixels}
