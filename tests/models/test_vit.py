"""The Vision Transformer against a NumPy forward pass, published counts and its promises."""

import keras
import numpy as np
import pytest
from scipy import special

from byol_tf.errors import UserError
from byol_tf.models import vit
from byol_tf.models.precision import policy_scope

IMAGES = np.random.default_rng(0).normal(size=(2, 8, 12, 3)).astype("float32")


@pytest.fixture(scope="module")
def tiny():
    model = vit.vit((8, 12), patch_size=4, width=8, depth=2, heads=2)
    keras.utils.set_random_seed(1)
    rng = np.random.default_rng(1)
    for weight in model.weights:  # Biases too.
        weight.assign(np.asarray(weight) + 0.1 * rng.normal(size=weight.shape))
    return model


def layer_norm(x, layer):
    gamma, beta = layer.get_weights()
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * gamma + beta


def dense(x, layer):
    kernel, bias = layer.get_weights()
    return x @ kernel + bias


def position(row, column, channels):
    """MoCo v3's embedding of one patch, written as a loop."""
    quarter = channels // 4
    omega = [1 / 10_000 ** (i / quarter) for i in range(quarter)]
    return np.concatenate(
        [
            np.sin([column * w for w in omega]),
            np.cos([column * w for w in omega]),
            np.sin([row * w for w in omega]),
            np.cos([row * w for w in omega]),
        ]
    )


def forward(model, images):
    """The same network from the papers' formulas, one image, patch and head at a time."""
    kernel, bias = model.get_layer("patches").get_weights()
    results = []
    for image in images.astype("float64"):
        tokens = np.array(
            [
                np.einsum("hwc,hwcd->d", image[4 * r : 4 * r + 4, 4 * c : 4 * c + 4], kernel)
                + bias
                + position(r, c, 8)
                for r in range(2)
                for c in range(3)
            ]
        )
        for block in ("block1", "block2"):
            normed = layer_norm(tokens, model.get_layer(f"{block}_norm1"))
            q, k, v = np.split(dense(normed, model.get_layer(f"{block}_qkv")), 3, axis=-1)
            heads = []
            for head in (slice(0, 4), slice(4, 8)):
                scores = q[:, head] @ k[:, head].T / np.sqrt(4)
                heads.append(special.softmax(scores, axis=-1) @ v[:, head])
            tokens = tokens + dense(
                np.concatenate(heads, axis=-1), model.get_layer(f"{block}_projection")
            )
            hidden = dense(
                layer_norm(tokens, model.get_layer(f"{block}_norm2")),
                model.get_layer(f"{block}_mlp1"),
            )
            hidden = hidden * 0.5 * (1 + special.erf(hidden / np.sqrt(2)))
            tokens = tokens + dense(hidden, model.get_layer(f"{block}_mlp2"))
        results.append(layer_norm(tokens, model.get_layer("norm")).mean(0))
    return np.array(results)


def test_the_forward_pass_is_the_papers(tiny):
    np.testing.assert_allclose(tiny(IMAGES), forward(tiny, IMAGES), rtol=1e-4, atol=1e-5)


def test_vit_s_has_its_published_size():
    """timm's vit_small_patch16_224 without class token, positions and classifier."""
    published = 22_050_664 - 384 - 197 * 384 - (384 * 1000 + 1000)
    assert vit.vit().count_params() == published


def test_the_frozen_patch_projection_is_no_trainable_weight(tiny):
    kernel = tiny.get_layer("patches").kernel
    assert not any(weight is kernel for weight in tiny.trainable_weights)
    copy = type(tiny).from_config(tiny.get_config())  # As the target is made.
    assert len(copy.trainable_weights) == len(tiny.trainable_weights)
    free = vit.vit(8, patch_size=4, width=8, depth=1, heads=2, frozen_patches=False)
    assert any(weight is free.get_layer("patches").kernel for weight in free.trainable_weights)


def test_all_weights_of_rank_one_are_biases_and_norms_and_no_other_is(tiny):
    """Weight decay and LARS go by the rank."""
    for layer in tiny.layers:
        ranks = [len(weight.shape) for weight in layer.weights]
        if layer.weights:
            norm = isinstance(layer, keras.layers.LayerNormalization)
            assert ranks == ([1, 1] if norm else [4 if layer.name == "patches" else 2, 1])


def test_half_precision_gives_a_float32_representation():
    with policy_scope("mixed_bfloat16"):
        model = vit.vit(8, patch_size=4, width=8, depth=1, heads=2)
    assert model.get_layer("block1_qkv").compute_dtype == "bfloat16"
    output = model(IMAGES[:, :, :8])
    assert output.dtype == "float32" and np.isfinite(output).all()


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ({"patch_size": 5}, "image_size 32 cannot be cut into patches of 5"),
        ({"patch_size": 0}, "patches of 0"),
        ({"patch_size": 4, "width": 30, "heads": 4}, "width 30 and 4 heads"),
        ({"patch_size": 4, "width": 6, "heads": 3}, "multiple of 4"),
        ({"patch_size": 4, "depth": 0}, "depth 0"),
    ],
)
def test_bad_arguments_are_named_with_what_to_do(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        vit.vit(32, **arguments)
