"""State dicts by their names: what is taken, what is left out, and which are no ResNet of ours."""

import numpy as np
import pytest

from byol_tf.errors import UserError
from byol_tf.models import networks
from byol_tf.weights import imported, pytorch
from byol_tf.weights.tensor import Tensor

CHANNELS = 2  # Width 1/32.


def tensors(shapes, seed=0):
    rng = np.random.default_rng(seed)
    values = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return {name: Tensor(value.shape, lambda value=value: value) for name, value in values.items()}


def norm(name, channels):
    names = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{part}": (channels,) for part in names} | {f"{name}.num_batches_tracked": ()}


def resnet18(kernel=7, blocks=(2, 2, 2, 2)):
    """Names and shapes of torchvision's, written from its documentation."""
    shapes = {"conv1.weight": (CHANNELS, 3, kernel, kernel), **norm("bn1", CHANNELS)}
    inputs = CHANNELS
    for stage, count in enumerate(blocks):
        outputs = CHANNELS * 2**stage
        for block in range(count):
            name = f"layer{stage + 1}.{block}"
            shapes[f"{name}.conv1.weight"] = (outputs, inputs, 3, 3)
            shapes[f"{name}.conv2.weight"] = (outputs, outputs, 3, 3)
            shapes |= norm(f"{name}.bn1", outputs) | norm(f"{name}.bn2", outputs)
            if inputs != outputs:
                shapes[f"{name}.downsample.0.weight"] = (outputs, inputs, 1, 1)
                shapes |= norm(f"{name}.downsample.1", outputs)
            inputs = outputs
    return shapes


def prefixed(prefix, shapes):
    return {f"{prefix}{name}": shape for name, shape in shapes.items()}


def convert(shapes):
    return pytorch.convert(tensors(shapes), "x.pth")


FC = {"fc.weight": (10, 16), "fc.bias": (10,)}
HEADS = {"projector.0.weight": (8, 16), "projector.1.running_mean": (8,)}


@pytest.mark.parametrize(
    "shapes",
    [
        resnet18() | FC,
        prefixed("module.", resnet18() | FC),
        prefixed("online_encoder.net.", resnet18()) | prefixed("target_encoder.net.", resnet18()),
        prefixed("backbone.", resnet18()) | prefixed("momentum_backbone.", resnet18()) | HEADS,
        prefixed("backbone.", resnet18()) | prefixed("teacher_backbone.", resnet18()),
        prefixed("module.encoder_q.", resnet18()) | prefixed("module.encoder_k.", resnet18()),
        prefixed("online_network_state_dict.encoder.", resnet18())
        | prefixed("target_network_state_dict.encoder.", resnet18()),
        prefixed("teacher.", resnet18()),  # The only one there is.
    ],
)
def test_the_online_encoder_is_found_under_any_prefix(shapes):
    first = next(name for name in shapes if name.endswith("conv1.weight"))
    found = convert(shapes)
    kernel = tensors(shapes)[first].read()
    np.testing.assert_array_equal(found.layers["stem_conv"][0], kernel.transpose(2, 3, 1, 0))
    assert len(found.layers) == 40 and found.encoder["depth"] == 18


def test_a_batch_norm_is_scale_offset_mean_and_variance():
    shapes = resnet18()
    parts = convert(shapes).layers["c4_block1_shortcut_bn"]
    for part, name in zip(parts, ("weight", "bias", "running_mean", "running_var"), strict=True):
        np.testing.assert_array_equal(part, tensors(shapes)[f"layer3.0.downsample.1.{name}"].read())


def test_the_numbers_say_which_network_fits():
    encoder, config = imported.build(convert(resnet18()), image_size=64)
    assert encoder.input_shape == (None, 64, 64, 3) and encoder.output_shape == (None, 16)
    assert (config.image_size, config.eval_resize) == (64, "bilinear")
    assert convert(resnet18(blocks=(3, 4, 6, 3))).encoder["depth"] == 34
    assert convert(resnet18(kernel=3)).encoder["stem"] == "small"


def test_solo_learns_stem_is_told_by_its_classifier():
    small = prefixed("backbone.", resnet18(kernel=3))
    assert convert(small).encoder["stem"] == "small"
    solo = convert(small | {"classifier.weight": (10, 16)})
    assert solo.encoder["stem"] == "solo-learn" and solo.preprocessing.mean[0] == 0.4914
    lightly = {"classifier.weight": (10, 16), "projection_head.layers.0.weight": (8, 16)}
    assert convert(small | lightly).encoder["stem"] == "small"
    assert convert(prefixed("backbone.", resnet18()) | {"classifier.weight": (10, 16)}).encoder[
        "stem"
    ] == ("imagenet")


def test_a_stem_that_the_file_does_not_show_can_be_given():
    encoder, config = imported.build(convert(resnet18(kernel=3)), stem="solo-learn")
    assert config.encoder.stem == "solo-learn"
    assert encoder.get_layer("stem_border").output.shape[1:3] == (34, 34)


TWO = prefixed("left.", resnet18()) | prefixed("right.", resnet18())


@pytest.mark.parametrize(
    "shapes, sentence",
    [
        (TWO, r"holds several encoders \('left.', 'right.'\)"),
        ({"features.0.weight": (8, 3, 3, 3)}, "holds no ResNet .*it has features.0.weight"),
        ({}, "it has no tensors"),
        (resnet18(blocks=(2, 2, 2, 3)), "2-2-2-3 basic blocks, which is none of the depths"),
        (resnet18() | {"layer1.0.se.fc1.weight": (2, 2)}, "has 'layer1.0.se.fc1.weight', which"),
        (resnet18() | {"conv1.bias": (2,)}, "has bias, weight for the layer 'stem_conv'"),
        (resnet18() | {"conv1.weight": (2, 3, 5, 5)}, "is 5x5; give weights of a ResNet v1"),
        (resnet18() | {"bn1.weight": (2, 2)}, "for the layer 'stem_bn'"),
    ],
)
def test_what_is_no_resnet_v1_is_named(shapes, sentence):
    with pytest.raises(UserError, match=sentence):
        convert(shapes)


def test_wide_resnets_differ_in_a_layer_that_is_named():
    """Their names are a ResNet's, their inner channels are not."""
    wide = resnet18()
    wide["layer2.1.conv1.weight"] = (8, 4, 3, 3)
    with pytest.raises(UserError, match="'c3_block2_conv1' has 3x3x4x8 there and 3x3x4x4 here"):
        imported.build(convert(wide))


@pytest.mark.parametrize(
    "depth, stem, sentence",
    [
        (34, "imagenet", "they have no layer 'c2_block3_conv1'"),
        (10, "imagenet", "the encoder has no layer 'c2_block2_conv1'"),
        (50, "imagenet", "layer 'c2_block1_conv1' has 3x3x2x2 there and 1x1x2x2 here"),
        (18, "small", "layer 'stem_conv' has 7x7x3x2 there and 3x3x3x2 here"),
    ],
)
def test_another_architecture_is_refused_by_its_first_layer_and_the_flags(depth, stem, sentence):
    encoder = networks.resnet(depth, CHANNELS / 64, 32, stem)
    before = encoder.get_weights()
    with pytest.raises(UserError, match=sentence) as refused:
        convert(resnet18()).assign_to(encoder)
    flags = (
        "--config.encoder.depth=18 --config.encoder.width=0.03125 --config.encoder.stem=imagenet"
    )
    assert flags in str(refused.value)
    for after, wanted in zip(encoder.get_weights(), before, strict=True):
        np.testing.assert_array_equal(after, wanted)
