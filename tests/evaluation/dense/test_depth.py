import functools

import keras
import ml_collections
import numpy as np
import pytest
import scenes
import tensorflow as tf
from PIL import Image

from byol_tf.errors import UserError
from byol_tf.evaluation.dense import depth, depth_network
from byol_tf.evaluation.evaluated_encoder import EvaluatedEncoder
from byol_tf.evaluation.splits import Splits
from byol_tf.images.preprocessing import Preprocessing
from byol_tf.models import networks

UNIT = Preprocessing(32, mean=(0, 0, 0), std=(1, 1, 1))


def config(**changes):
    values = {
        "learning_rate": 0.05,
        "steps": 60,
        "batch_size": 4,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "decay_at": (0.7, 0.9),
        "downsample": 1.0,
        "crop": (48, 48),
        "filters": (32, 16),
        "grayscale_prob": 0.0,
        "brightness": 0.0,
        "saturation": (1.0, 1.0001),
        "hue": 0.0,
    }
    return ml_collections.ConfigDict(values | changes)


@functools.cache
def encoder():
    return networks.resnet(18, 0.25, 32, "small")


def pretrained(build=encoder):
    return EvaluatedEncoder("BYOL", None, UNIT, "0", build)


def write_pairs(root, images, maps):
    """Writes images uint8 `[H, W, 3]` and depths uint16 `[H, W]` as PNG."""
    for folder in ("images", "depth"):
        (root / folder).mkdir()
    for index, (image, millimetres) in enumerate(zip(images, maps, strict=True)):
        Image.fromarray(image).save(root / "images" / f"{index}.png")
        Image.fromarray(millimetres).save(root / "depth" / f"{index}.png")


def test_a_few_annotated_images_are_learnt(tmp_path, images_dir):
    scenes.write_depth(tmp_path, images_dir / "train", 4, size=48)
    result = depth.evaluate(pretrained(), Splits(str(tmp_path), str(tmp_path)), config())
    assert result.rel < 0.15 and result.within_1_25 > 0.8
    assert result.num_test == 4


def test_metrics_of_four_pixels_counted_by_hand():
    errors = depth.DepthErrors()
    # Ratios 1.2, 1.5, 2 and 1; the fifth pixel is unknown.
    errors.add(np.array([[1.0, 3.0, 4.0]]), np.array([[1.2, 2.0, 2.0]]))
    errors.add(np.array([[2.0, 0.0]]), np.array([[2.0, 7.0]]))
    result = errors.result(num_test=2)
    assert (result.within_1_25, result.within_1_25_2, result.within_1_25_3) == (0.5, 0.75, 0.75)
    assert result.rms == pytest.approx(np.sqrt((0.2**2 + 1 + 2**2 + 0) / 4))
    assert result.rel == pytest.approx((0.2 / 1 + 1 / 3 + 2 / 4 + 0) / 4)
    assert result.num_test == 2
    assert result.cells() == {
        "depth < 1.25, %": "50.0",
        "depth < 1.25², %": "75.0",
        "depth < 1.25³, %": "75.0",
        "depth rms, m": "1.122",
        "depth rel": "0.258",
    }


def test_batches_of_metrics_add_up_to_the_formulas():
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.5, 10, (6, 20, 30))
    predicted = truth * np.exp(rng.normal(0, 0.3, truth.shape))
    truth[rng.random(truth.shape) < 0.2] = 0
    errors = depth.DepthErrors()
    for start, end in ((0, 1), (1, 6)):
        errors.add(truth[start:end], predicted[start:end])
    result = errors.result(6)
    t, p = truth[truth > 0], predicted[truth > 0]
    for power, within in enumerate(
        (result.within_1_25, result.within_1_25_2, result.within_1_25_3), start=1
    ):
        assert within == pytest.approx(np.mean(np.maximum(p / t, t / p) < 1.25**power))
    assert result.rms == pytest.approx(np.sqrt(np.mean((p - t) ** 2)))
    assert result.rel == pytest.approx(np.mean(np.abs(p - t) / t))


def test_a_prediction_that_is_not_positive_counts_as_a_millimetre():
    errors = depth.DepthErrors()
    errors.add(np.array([1.0]), np.array([-5.0]))
    assert errors.result(1).within_1_25 == 0
    assert errors.result(1).rms == pytest.approx(0.999)


def test_reverse_huber_loss_equals_its_formula():
    truth = np.array([[[1.0, 2.0, 0.0], [4.0, 5.0, 0.0]]], np.float32)
    predicted = np.array([[[1.1, 2.0, 9.0], [2.0, 5.3, -3.0]]], np.float32)
    # Residuals 0.1, 0, 2, 0.3; c = 0.2 · 2, since the 9 of the unknown pixel does not count.
    c = 0.4
    expected = np.mean([0.1, 0.0, (2**2 + c**2) / (2 * c), 0.3])
    assert depth_network.berhu_loss(truth, predicted).numpy() == pytest.approx(expected, rel=1e-5)
    assert depth_network.berhu_loss(truth, truth).numpy() == 0
    assert depth_network.berhu_loss(np.zeros_like(truth), predicted).numpy() == 0


def test_reverse_huber_gradient_treats_c_as_a_constant():
    def gradient(truth):
        prediction = tf.Variable([[[1.0, 2.0, 3.0]]])
        with tf.GradientTape() as tape:
            loss = depth_network.berhu_loss(tf.constant([[truth]]), prediction)
        return tape.gradient(loss, prediction).numpy()[0, 0].tolist()

    # Residual 6, c = 1.2: x / c, halved as one of two known pixels.
    assert gradient([1.0, 0.0, 9.0]) == pytest.approx([0, 0, -2.5])
    assert gradient([0.0, 0.0, 0.0]) == [0, 0, 0]
    assert gradient([1.0, 2.0, 3.0]) == [0, 0, 0]


def test_up_projection_is_unpooling_and_a_5x5_convolution():
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, depth_network.up_projection(inputs, 4, "up"))
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(0.5, 1.5, weight.shape) for weight in model.get_weights()])
    x = rng.normal(size=(2, 5, 6, 3)).astype(np.float32)
    unpooled = np.zeros((2, 10, 12, 3), np.float32)
    unpooled[:, ::2, ::2] = x

    def conv(x, kernel):
        return tf.nn.conv2d(x, kernel.astype(np.float32), 1, "SAME").numpy()

    def unpool_and_conv(branch):
        kernel = np.zeros((5, 5, 3, 4))
        for rows, columns in ((3, 3), (3, 2), (2, 3), (2, 2)):
            part = model.get_layer(f"up_{branch}_{rows}x{columns}").get_weights()[0]
            kernel[3 - rows :: 2, 3 - columns :: 2][:rows, :columns] = part
        assert np.all(kernel != 0), "the four kernels must make up the 5x5"
        return conv(unpooled, kernel)

    def batch_norm(x, index):
        gamma, beta, mean, variance = model.get_layer(f"up_bn{index}").get_weights()
        return (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta

    branch = np.maximum(batch_norm(unpool_and_conv("a"), 1), 0)
    branch = batch_norm(conv(branch, *model.get_layer("up_conv").get_weights()), 2)
    expected = np.maximum(branch + batch_norm(unpool_and_conv("b"), 3), 0)
    np.testing.assert_allclose(model(x), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("stem, blocks", [("imagenet", 4), ("small", 2)])
def test_blocks_bring_the_map_to_half_the_image(stem, blocks):
    network = depth_network.build_depth_network(networks.resnet(18, 0.25, 64, stem), (16, 8, 4, 4))
    names = [layer.name for layer in network.layers if layer.name.endswith("_add")]
    assert [name for name in names if name.startswith("depth_up")] == [
        f"depth_up{index + 1}_add" for index in range(blocks)
    ]
    assert network.get_layer("depth_reduce").filters == 32
    images = np.zeros((1, 64, 96, 3), np.float32)
    before = keras.Model(network.input, [network.get_layer("depth").output, network.output])
    coarse, full = before(images)
    assert coarse.shape == (1, 32, 48, 1) and full.shape == (1, 64, 96)


def test_too_few_filters_are_an_error():
    with pytest.raises(UserError, match="stride 8 needs 2 blocks"):
        depth_network.build_depth_network(encoder(), (16,))


def coordinates(height, width):
    """An image and a depth map whose pixels encode their position."""
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([3 * columns, 3 * rows, 0 * rows], axis=-1).astype(np.uint8)
    return image, (1 + 100 * rows + columns).astype(np.uint16)


def test_training_halves_crops_and_flips_image_and_depth_alike(tmp_path):
    image, millimetres = coordinates(48, 64)
    millimetres[20:24, 30:34] = 0
    write_pairs(tmp_path, [image], [millimetres])
    training = config(downsample=0.5, crop=(20, 28), steps=10)
    pairs = depth._checked_pairs(str(tmp_path), training)
    # The nearest pixel of the half-size map's pixel i is 2 i + 1; 24 x 32 lose 2 on each side.
    expected = millimetres[1::2, 1::2][2:-2, 2:-2] / 1000
    assert expected.shape == (20, 28) and np.sum(expected == 0) == 4
    flips = 0
    for pixels, metres in depth._training_batches(pairs, UNIT, training, 0).unbatch():
        pixels, metres = pixels.numpy(), metres.numpy()
        flipped = metres[0, 0] > metres[0, -1]
        if flipped:
            pixels, metres = pixels[:, ::-1], metres[:, ::-1]
        flips += flipped
        np.testing.assert_allclose(metres, expected, atol=1e-6)
        rows, columns = np.mgrid[4:44:2, 4:60:2] + 0.5  # The mean of two pixels' coordinates.
        np.testing.assert_allclose(pixels[..., 0] * 255, 3 * columns, atol=0.1)
        np.testing.assert_allclose(pixels[..., 1] * 255, 3 * rows, atol=0.1)
    assert 10 <= flips <= 30, "of 40"


def colours(tmp_path, **changes):
    """Eight colour augmentations of one photo, flipped back, and the photo."""
    rng = np.random.default_rng(0)
    image = rng.integers(40, 200, (8, 8, 3)).astype(np.uint8)
    write_pairs(tmp_path, [image], [coordinates(8, 8)[1]])
    training = config(crop=(8, 8), steps=2, **changes)
    pairs = depth._checked_pairs(str(tmp_path), training)
    draws = [
        (pixels[:, ::-1] if metres[0, 0] > metres[0, -1] else pixels).numpy()
        for pixels, metres in depth._training_batches(pairs, UNIT, training, 0).unbatch()
    ]
    return np.stack(draws), image / 255


def test_without_changes_of_colour_the_image_is_itself(tmp_path):
    draws, image = colours(tmp_path)
    np.testing.assert_allclose(draws, np.broadcast_to(image, draws.shape), atol=1e-3)


def test_brightness_adds_at_most_its_maximum(tmp_path):
    draws, image = colours(tmp_path, brightness=0.1255)
    shifts = np.mean(draws - image, axis=(1, 2, 3))
    np.testing.assert_allclose(
        draws, image + shifts[:, np.newaxis, np.newaxis, np.newaxis], atol=1e-3
    )
    assert len(set(shifts.round(4))) == 8 and 0.04 < np.abs(shifts).max() <= 0.1255


def test_grayscale_is_drawn_an_image(tmp_path):
    draws, _ = colours(tmp_path, grayscale_prob=0.5, hue=0.2, saturation=(0.5, 1.5))
    gray = np.ptp(draws, axis=-1).max(axis=(1, 2)) < 1e-4
    assert 1 <= gray.sum() <= 7
    hues = {tuple(draw[0, 0].round(3)) for draw in draws[~gray]}
    assert len(hues) == (~gray).sum(), "each image has a hue and saturation of its own"


def test_the_test_compares_all_of_the_truth_that_the_network_sees(tmp_path):
    image, millimetres = coordinates(48, 64)
    write_pairs(tmp_path, [image, image], [millimetres, np.flip(millimetres)])
    testing = config(downsample=0.5, crop=(20, 28), batch_size=1)
    pairs = depth._checked_pairs(str(tmp_path), testing)

    def two_metres(images, training):
        assert images.shape[1:] == (20, 28, 3) and not training
        return tf.fill(tf.shape(images)[:3], 2.0)

    result = depth._test(two_metres, pairs, UNIT, testing)
    seen = np.stack([millimetres, np.flip(millimetres)])[:, 4:44, 4:60] / 1000
    assert result.rms == pytest.approx(np.sqrt(np.mean((seen - 2) ** 2)), rel=1e-5)
    assert result.rel == pytest.approx(np.mean(np.abs(seen - 2) / seen), rel=1e-5)


def test_predictions_lie_on_the_truth(tmp_path):
    image, _ = coordinates(48, 64)
    columns = np.mgrid[:48, :64][1]
    write_pairs(tmp_path, [image], [(1000 + 100 * columns).astype(np.uint16)])
    testing = config(downsample=0.5, crop=(20, 28))
    pairs = depth._checked_pairs(str(tmp_path), testing)

    def of_the_red_channel(images, training):
        return 1 + 0.1 * images[..., 0] * 255 / 3

    # Wrong only at the border, where a resize cannot extrapolate; a shift by a pixel is 0.1 m.
    assert depth._test(of_the_red_channel, pairs, UNIT, testing).rms < 0.02


def run(root, **changes):
    return depth.evaluate(pretrained(), Splits(str(root), str(root)), config(**changes))


@pytest.fixture
def pairs(tmp_path):
    image, millimetres = coordinates(48, 48)
    write_pairs(tmp_path, [image] * 3, [millimetres] * 3)
    return tmp_path


def test_a_folder_without_pairs_is_an_error(tmp_path):
    with pytest.raises(UserError, match="has no folder 'images'"):
        run(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "depth").mkdir()
    with pytest.raises(UserError, match="holds no images in 'images'"):
        run(tmp_path)


@pytest.mark.parametrize(
    "removed, message",
    [
        ("depth/1.png", "'1' is in 'images' but not in 'depth'"),
        ("images/2.png", "'2' is in 'depth' but not in 'images'"),
    ],
)
def test_a_file_without_a_partner_is_named(pairs, removed, message):
    (pairs / removed).unlink()
    with pytest.raises(UserError, match=f"1 images and depth maps .*{message}"):
        run(pairs)


@pytest.mark.parametrize(
    "depth_map, message",
    [
        (np.ones((48, 48), np.uint8), "is not a 16-bit grey PNG"),
        (np.ones((48, 47), np.uint16), r"48 x 48 pixels, but its map '.*1\.png' has 47 x 48"),
        (
            np.zeros((48, 48), np.uint16),
            "has no known depth, only 0, in the central 48 x 48 pixels",
        ),
    ],
)
def test_a_bad_depth_map_is_named(pairs, depth_map, message):
    Image.fromarray(depth_map).save(pairs / "depth" / "1.png")
    with pytest.raises(UserError, match=message):
        run(pairs)


def test_images_smaller_than_the_crop_are_an_error(pairs):
    with pytest.raises(UserError, match="48 x 48 pixels, which scaled by .*0.5 is smaller"):
        run(pairs, downsample=0.5, crop=(24, 30))


@pytest.mark.parametrize(
    "field, value",
    [
        ("learning_rate", 0.0),
        ("downsample", 1.5),
        ("crop", (0, 5)),
        ("filters", ()),
        ("grayscale_prob", 2.0),
        ("brightness", -0.1),
        ("saturation", (1.0, 1.0)),
        ("hue", 0.6),
        ("steps", 0),
    ],
)
def test_a_bad_value_is_an_error_that_names_it(tmp_path, field, value):
    with pytest.raises(UserError, match=rf"depth\.{field} is .*; give "):
        run(tmp_path, **{field: value})
