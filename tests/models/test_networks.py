"""Encoders against the literature's parameter counts, shapes and initialisation."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from byol_tf.errors import UserError
from byol_tf.models import networks
from byol_tf.models.stages import stage_outputs

# torchvision's published parameter counts without the 1000-class layer (512 or 2048 inputs, with
# bias). BatchNorm's moving statistics are not parameters there.
PUBLISHED = {
    # Not torchvision's: ResNet-18 without the two convolutions and BNs of each stage's 2nd block.
    10: 11_689_512 - 513_000 - sum(2 * (9 * c * c + 2 * c) for c in (64, 128, 256, 512)),
    18: 11_689_512 - 513_000,
    34: 21_797_672 - 513_000,
    50: 25_557_032 - 2_049_000,
    101: 44_549_160 - 2_049_000,
    152: 60_192_808 - 2_049_000,
}


def trainable(model):
    return sum(np.prod(w.shape) for w in model.trainable_weights)


@pytest.mark.parametrize("depth", PUBLISHED)
def test_parameter_counts_are_the_published_ones(depth):
    assert trainable(networks.resnet(depth)) == PUBLISHED[depth]


def test_paper_networks_have_the_papers_sizes():
    assert trainable(networks.resnet(50)) / 1e6 == pytest.approx(23.5, abs=0.05)
    assert trainable(networks.resnet(200, width=2)) / 1e6 == pytest.approx(250, abs=1)


@pytest.mark.parametrize("depth, width, features", [(18, 1, 512), (34, 0.5, 256), (50, 0.5, 1024)])
def test_representation_has_the_stages_last_width(depth, width, features):
    model = networks.resnet(depth, width, image_size=64)
    assert model.input_shape == (None, 64, 64, 3)
    assert model.output_shape == (None, features)


def test_stems_have_their_strides():
    large = networks.resnet(18, 0.125, image_size=64)
    small = networks.resnet(18, 0.125, image_size=64, stem="small")
    assert large.get_layer("c2_block1_relu2").output.shape[1:3] == (16, 16)
    assert small.get_layer("c2_block1_relu2").output.shape[1:3] == (64, 64)
    assert small.get_layer("c5_block2_relu2").output.shape[1:3] == (8, 8)


def test_the_authors_project_in_the_first_block_of_depth_18():
    """One 1x1 convolution of 64 channels and its BatchNorm: 4,224 parameters."""
    plain, projected = (
        trainable(networks.resnet(18, image_size=32, c2_projection=projects))
        for projects in (False, True)
    )
    assert projected - plain == 64 * 64 + 2 * 64
    deeper = trainable(networks.resnet(50, image_size=32, c2_projection=True))
    assert deeper == PUBLISHED[50]  # It has one anyway.


@pytest.mark.parametrize("depth, stem", [(10, "imagenet"), (50, "small")])
def test_paddings_agree_where_every_map_has_an_odd_side(depth, stem):
    """There TensorFlow's SAME is symmetric too; an even side is where PyTorch differs."""
    same, symmetric = (
        networks.resnet(depth, 1 / 64, 65, stem, False, padding=padding)
        for padding in networks.PADDINGS
    )
    symmetric.set_weights(same.get_weights())
    images = np.random.default_rng(0).normal(size=(2, 65, 65, 3)).astype("float32")
    np.testing.assert_allclose(same(images), symmetric(images), rtol=1e-5, atol=1e-6)
    dilated = [stage_outputs(model, 65, dilated_c5=True)(images) for model in (same, symmetric)]
    for stage, maps in dilated[0].items():
        np.testing.assert_allclose(maps, dilated[1][stage], rtol=1e-4, atol=1e-5)


def test_the_first_convolution_has_pytorchs_border():
    model = networks.resnet(10, 1 / 64, 64, padding="symmetric")
    images = np.random.default_rng(0).normal(size=(1, 64, 64, 3)).astype("float32")
    found = keras.Model(model.inputs, model.get_layer("stem_conv").output)(images)
    border = [[0, 0], [3, 3], [3, 3], [0, 0]]
    wanted = tf.nn.conv2d(images, model.get_layer("stem_conv").get_weights()[0], 2, border)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_the_stems_of_other_libraries_are_small_ones_with_another_border_or_no_relu():
    small, lightly, solo = (
        networks.resnet(10, 1 / 64, 32, stem) for stem in ("small", "lightly", "solo-learn")
    )
    assert trainable(small) == trainable(lightly) == trainable(solo)
    assert solo.get_layer("stem_conv").output.shape[1:3] == (34, 34)
    names = [{layer.name for layer in model.layers} for model in (small, lightly)]
    assert names[0] - names[1] == {"stem_relu"}


def test_zero_init_makes_the_residual_branches_silent():
    images = tf.random.normal([2, 32, 32, 3])
    zero = networks.resnet(18, 0.125, 32, "small", zero_init_last_gamma=True)
    for layer in zero.layers:
        if layer.name.endswith("_conv2"):
            layer.kernel.assign(
                layer.kernel * 100
            )  # Would change the output if the branch were heard.
    before = zero(images)
    for layer in zero.layers:
        if layer.name.endswith("_conv2"):
            layer.kernel.assign(layer.kernel * -3)
    np.testing.assert_array_equal(before, zero(images))
    one = networks.resnet(18, 0.125, 32, "small", zero_init_last_gamma=False)
    assert all(np.all(w == 1) for w in one.weights if "gamma" in w.name)


def test_batch_norm_has_the_papers_constants():
    layer = networks.resnet(18, 0.125, 32, "small").get_layer("stem_bn")
    assert (layer.momentum, layer.epsilon) == (0.9, 1e-5)


def test_batch_norm_is_synchronised_exactly_where_there_are_several_replicas(two_replicas):
    assert not networks.BatchNorm().synchronized
    with two_replicas.scope():
        layer = networks.BatchNorm()
        assert layer.synchronized
        # Keras's own layer loses it here.
        assert networks.BatchNorm.from_config(layer.get_config()).synchronized
    assert not networks.BatchNorm.from_config(layer.get_config()).synchronized


def test_mlp_is_dense_with_bias_norm_relu_dense_without():
    mlp = networks.mlp(64, 16, "projector")
    mlp.build((None, 8))
    shapes = {
        w.path if hasattr(w, "path") else w.name: tuple(w.shape) for w in mlp.trainable_weights
    }
    assert sorted(shapes.values()) == sorted([(8, 64), (64,), (64,), (64,), (64, 16)])
    assert not mlp.layers[-1].use_bias


def test_mixed_precision_gives_a_float32_representation():
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        model = networks.resnet(18, 0.125, 32, "small")
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert model.get_layer("c2_block1_conv1").compute_dtype == "bfloat16"
    assert model(tf.zeros([2, 32, 32, 3])).dtype == tf.float32


@pytest.mark.parametrize(
    "kwargs, sentence",
    [
        ({"depth": 42}, "depth 42"),
        ({"stem": "tiny"}, "stem 'tiny'"),
        ({"padding": "valid"}, "padding 'valid'"),
        ({"width": 0.3}, "width 0.3"),
        ({"width": 0}, "width 0"),
        ({"image_size": 16}, "stem='small'"),
        ({"image_size": 4, "stem": "small"}, "at least 8"),
    ],
)
def test_bad_arguments_are_named_with_what_to_do(kwargs, sentence):
    with pytest.raises(UserError, match=sentence):
        networks.resnet(**kwargs)


def test_images_need_not_be_square():
    encoder = networks.resnet(depth=18, width=0.25, image_size=(48, 64), stem="small")
    assert encoder.input_shape == (None, 48, 64, 3) and encoder.output_shape == (None, 128)
    with pytest.raises(UserError, match="too small"):
        networks.resnet(depth=18, image_size=(64, 4), stem="small")


@pytest.mark.parametrize("num_layers, widths", [(1, [8]), (2, [64, 8]), (3, [64, 64, 8])])
def test_mlp_has_as_many_dense_layers_as_it_is_told(num_layers, widths):
    mlp = networks.mlp(64, 8, "head", num_layers)
    mlp.build((None, 16))
    dense = [layer for layer in mlp.layers if isinstance(layer, keras.layers.Dense)]
    assert [layer.units for layer in dense] == widths
    assert [layer.use_bias for layer in dense] == [True] * (num_layers - 1) + [False]
    kinds = [type(layer).__name__ for layer in mlp.layers]
    assert kinds == ["Dense", "BatchNorm", "ReLU"] * (num_layers - 1) + ["Dense"]
    with pytest.raises(UserError, match="the head has 0 layers; give 1 or more"):
        networks.mlp(64, 8, "head", 0)


def test_the_default_mlp_keeps_the_names_of_saved_models():
    names = [layer.name for layer in networks.mlp(64, 8, "predictor").layers]
    assert names == ["predictor_hidden", "predictor_bn", "predictor_relu", "predictor_output"]
