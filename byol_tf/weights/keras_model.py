"""Weights of a Keras model in memory, which is how runs, exports and .keras files come."""

import keras

from byol_tf.images.preprocessing import Preprocessing
from byol_tf.weights import architecture
from byol_tf.weights.encoder_weights import EncoderWeights, weighted_layers


def of_model(
    model: keras.Model,
    path: str,
    source: str,
    preprocessing: Preprocessing | None = None,
    method: str = "imported",
) -> EncoderWeights:
    """Returns the weights of an encoder in memory, the other arguments as in `EncoderWeights`."""
    layers = {name: layer.get_weights() for name, layer in weighted_layers(model).items()}
    names = {layer.name for layer in model.layers}
    network = network_of(names, layers, path)
    return EncoderWeights(path, source, layers, network, preprocessing, method)


def network_of(names: set[str], layers: dict, path: str) -> dict | None:
    """Returns the arguments of `networks.resnet` if the names of all layers are those of one."""
    if not {"stem_conv", "c2_block1_conv1", "representation"} <= names:
        return None
    symmetric = any(name.endswith("_pad") for name in names)
    stem = "solo-learn" if "stem_border" in names else None
    if "stem_relu" not in names:
        stem = "lightly"
    return architecture.infer(layers, path, "symmetric" if symmetric else "same", stem)
