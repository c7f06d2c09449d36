import functools

import keras
import ml_collections
import numpy as np
import pytest
import scenes
from PIL import Image
from sklearn.metrics import confusion_matrix, jaccard_score

from byol_tf.errors import UserError
from byol_tf.evaluation.dense import masks, pairs, segmentation, voc
from byol_tf.evaluation.evaluated_encoder import EvaluatedEncoder
from byol_tf.evaluation.splits import Splits
from byol_tf.images.preprocessing import Preprocessing
from byol_tf.models import networks

PREPROCESSING = Preprocessing(32, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))


def config(**changes):
    values = {
        "learning_rates": (0.05,),
        "validation_fraction": 0.25,
        "steps": 50,
        "batch_size": 4,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "decay_at": (0.7, 0.9),
        "crop_size": 48,
        "scale": (1.0, 1.0),
        "channels": 32,
        "dilation": 2,
    }
    return ml_collections.ConfigDict(values | changes)


@functools.cache
def encoder():
    return networks.resnet(18, 0.25, 32, "small")


def pretrained(build=encoder):
    return EvaluatedEncoder("BYOL", None, PREPROCESSING, "0", build)


@pytest.fixture
def tree(tmp_path, images_dir):
    """A VOC tree of four scenes of 48 pixels, and the scenes."""
    return tmp_path, scenes.write_voc(tmp_path, images_dir / "train", "train", 4, size=48)


def test_a_few_annotated_images_are_learnt(tree):
    root, _ = tree
    splits = Splits(f"voc:{root}:train", f"voc:{root}:train")
    result = segmentation.evaluate(pretrained(), splits, config())
    assert result.mean_iou > 0.9
    assert result.iou.keys() == {"background", "airplane", "automobile", "bird", "cat", "frog"}
    assert result.mean_iou == pytest.approx(np.mean(list(result.iou.values())))
    assert (result.learning_rate, result.validation_mean_iou) == (0.05, {})
    assert result.num_test == 4
    assert result.cells() == {"segmentation mIoU, %": f"{100 * result.mean_iou:.1f}"}


def test_iou_equals_scikit_learns():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 5, (7, 40, 30)).astype(np.uint8)
    predicted = np.where(rng.random(truth.shape) < 0.6, truth, rng.integers(0, 5, truth.shape))
    truth[rng.random(truth.shape) < 0.1] = 255
    # Of six classes, 5 never occurs and 4 only in the prediction.
    truth[truth == 4] = 255
    matrix = sum(
        segmentation.confusion_matrix(image_truth, image_predicted, 6)
        for image_truth, image_predicted in zip(truth, predicted, strict=True)
    )
    labelled = truth != 255
    pair = truth[labelled], predicted[labelled]
    np.testing.assert_array_equal(matrix, confusion_matrix(*pair, labels=range(6)))
    expected = jaccard_score(*pair, labels=range(5), average=None)
    np.testing.assert_allclose(segmentation.class_iou(matrix), [*expected, np.nan])
    assert expected[4] == 0, "the case must have a class that is predicted only"
    assert segmentation.mean_iou(matrix) == pytest.approx(expected.mean())


def test_loss_is_the_mean_cross_entropy_of_labelled_pixels():
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 3, (2, 4, 5)).astype(np.uint8)
    mask[0, 1:] = 255
    logits = rng.normal(size=(2, 4, 5, 3)).astype(np.float32)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    losses = [
        -np.log(probabilities[index + (mask[index],)])
        for index in np.ndindex(mask.shape)
        if mask[index] != 255
    ]
    assert len(losses) == 25
    assert segmentation.segmentation_loss(mask, logits).numpy() == pytest.approx(
        np.mean(losses), rel=1e-5
    )
    assert segmentation.segmentation_loss(np.full_like(mask, 255), logits).numpy() == 0


def test_the_network_is_the_papers():
    fcn = segmentation.build_fcn(networks.resnet(18, 0.25, 64), 21, channels=256, dilation=6)
    for name in ("segmentation_1_conv", "segmentation_2_conv"):
        convolution = fcn.get_layer(name)
        assert (convolution.filters, convolution.kernel_size) == (256, (3, 3))
        assert convolution.dilation_rate == (6, 6)
    for name in ("block1_conv1", "block1_conv2", "block2_conv1", "block2_conv2"):
        convolution = fcn.get_layer(f"c5_{name}")
        assert (convolution.strides, convolution.dilation_rate) == ((1, 1), (2, 2))
    images = np.zeros((1, 70, 45, 3), np.float32)
    assert fcn(images).shape == (1, 70, 45, 21)
    features = keras.Model(fcn.input, fcn.get_layer("segmentation_logits").output)
    assert features(images).shape == (1, 5, 3, 21), "the stride must be 16"


def test_masks_are_read_by_index_and_padding_is_void(tree):
    root, written = tree
    data = voc.open_voc(f"voc:{root}:train", "Segmentation")
    paths = masks.checked_pairs(data)
    with Image.open(paths[0][1]) as mask:
        assert mask.mode == "P" and mask.getpalette()[3:6] == [128, 0, 0]
    examples = list(masks.evaluation_pairs(paths, PREPROCESSING, 64).as_numpy_iterator())
    for (image, mask), scene, (image_path, _) in zip(examples, written, paths, strict=True):
        assert image.shape == (1, 64, 64, 3) and mask.shape == (1, 64, 64)
        np.testing.assert_array_equal(mask[0, 8:56, 8:56], scene.mask)
        padding = np.ones((64, 64), bool)
        padding[8:56, 8:56] = False
        assert np.all(mask[0, padding] == 255) and np.all(image[0, padding] == 0)
        pixels = np.asarray(Image.open(image_path)) / 255
        expected = (pixels - [0.4, 0.5, 0.6]) / [0.2, 0.3, 0.4]
        np.testing.assert_allclose(image[0, 8:56, 8:56], expected, atol=0.03)
    # A larger image is not cropped.
    image, mask = next(masks.evaluation_pairs(paths, PREPROCESSING, 20).as_numpy_iterator())
    assert image.shape == (1, 48, 48, 3)
    np.testing.assert_array_equal(mask[0], written[0].mask)


def test_scaling_cropping_and_flipping_move_image_and_mask_alike(tmp_path):
    """The image encodes the mask: class k has grey level 40 k."""
    blocks = np.random.default_rng(0).integers(0, 6, (5, 4))
    mask = np.kron(blocks, np.ones((16, 16), int)).astype(np.uint8)
    Image.fromarray(40 * mask).save(tmp_path / "image.png")
    scenes.save_mask(tmp_path / "mask.png", mask)
    paths = [(str(tmp_path / "image.png"), str(tmp_path / "mask.png"))]
    unit = Preprocessing(32, mean=(0, 0, 0), std=(1, 1, 1))
    training = config(scale=(0.5, 2.0), crop_size=64, steps=6)

    def run(seed):
        batches = masks.training_batches(paths, unit, training, seed).as_numpy_iterator()
        return [np.concatenate(column) for column in zip(*batches, strict=True)]

    images, crops = run(seed=0)
    assert images.shape == (24, 64, 64, 3) and crops.shape == (24, 64, 64)
    inside = crops != 255
    assert np.all(images[~inside] == 0)
    shown = images[..., 0] * 255 / 40
    # Grey levels mix at the borders of blocks.
    assert np.mean(np.abs(shown - crops)[inside] < 0.2) > 0.85
    filled = inside.mean(axis=(1, 2))
    # Scaled by less than 0.8 (64 of 80 rows), a crop has padding: a fifth of the draws.
    assert 1 <= np.sum(filled < 0.999) <= 12
    assert filled.min() < 0.6
    assert len(np.unique(crops, axis=0)) == 24
    again, _ = run(seed=0)
    np.testing.assert_array_equal(images, again)
    assert not np.array_equal(images, run(seed=1)[0])


def test_half_of_the_crops_are_flipped(tmp_path):
    Image.fromarray(np.tile(np.arange(0, 240, 5, dtype=np.uint8), (48, 1))).save(tmp_path / "i.png")
    mask = np.tile(np.arange(48, dtype=np.uint8), (48, 1))
    scenes.save_mask(tmp_path / "m.png", mask)
    paths = [(str(tmp_path / "i.png"), str(tmp_path / "m.png"))]
    flipped = 0
    for image, crop in masks.training_batches(paths, PREPROCESSING, config(), 0).unbatch():
        flipped += int(crop[0, 0] == 47)
        np.testing.assert_array_equal(crop, mask[:, ::-1] if crop[0, 0] == 47 else mask)
        assert (image[0, 0, 0] > image[0, -1, 0]) == (crop[0, 0] == 47)
    assert 75 <= flipped <= 125, "of 200"


def test_the_rate_is_chosen_on_images_held_out(tmp_path, images_dir, monkeypatch):
    """With training replaced: each rate gives a network that predicts one class everywhere."""
    scenes.write_voc(tmp_path, images_dir / "train", "train", 8, size=32)
    scenes.write_voc(tmp_path, images_dir / "test", "test", 2, size=32, seed=1)
    trained_on = []
    training_batches = segmentation.training_batches

    def record(paths, *arguments):
        trained_on.append({image for image, _ in paths})
        return training_batches(paths, *arguments)

    def fit(model, loss, dataset, learning_rate, config):
        if learning_rate == 3.0:
            raise pairs.Diverged("training diverged")
        logits = model.get_layer("segmentation_logits")
        kernel, bias = (np.zeros(weight.shape) for weight in logits.get_weights())
        bias[{1.0: 4, 2.0: 0}[learning_rate]] = 1
        logits.set_weights([kernel, bias])

    monkeypatch.setattr(segmentation, "training_batches", record)
    monkeypatch.setattr(pairs, "fit", fit)
    splits = Splits(f"voc:{tmp_path}:train", f"voc:{tmp_path}:test")
    result = segmentation.evaluate(
        pretrained(), splits, config(learning_rates=(1.0, 2.0, 3.0), crop_size=32)
    )
    kept = trained_on[0]
    everything = {str(path) for path in (tmp_path / "JPEGImages").glob("train_*")}
    assert trained_on == [kept, kept, kept, everything]
    assert len(kept) == 6 and kept < everything

    def truth(paths):
        names = [path.replace("JPEGImages", "SegmentationClass")[:-3] + "png" for path in paths]
        return np.concatenate([np.asarray(Image.open(name)).ravel() for name in names])

    def score(paths, predicted):
        labels = truth(paths)[truth(paths) != 255]
        classes = np.union1d(labels, [predicted])
        return jaccard_score(
            labels, np.full_like(labels, predicted), labels=classes, average="macro"
        )

    held_out = everything - kept
    assert result.validation_mean_iou == pytest.approx(
        {1.0: score(held_out, 4), 2.0: score(held_out, 0), 3.0: 0.0}
    )
    assert result.learning_rate == 2.0, "background is most of the pixels"
    tested = [str(path) for path in (tmp_path / "JPEGImages").glob("test_*")]
    assert result.mean_iou == pytest.approx(score(tested, 0))
    assert result.num_test == 2


def test_scenes_boxes_are_what_the_reader_gives(tree):
    root, written = tree
    data = voc.open_voc(f"voc:{root}:train", "Main")
    for image_id, scene in zip(data.image_ids, written, strict=True):
        objects = data.annotation(image_id).objects
        assert [(item.class_index, item.box) for item in objects] == [
            (item.class_index, item.box) for item in scene.objects
        ]


def run(root, model=None, **changes):
    splits = Splits(f"voc:{root}:train", f"voc:{root}:train")
    return segmentation.evaluate(model or pretrained(), splits, config(**changes))


def test_a_mask_with_an_unknown_class_is_named_before_training(tree):
    root, written = tree
    mask = written[1].mask.copy()
    mask[:2, 0] = 7, 90
    scenes.save_mask(root / "SegmentationClass" / "train_0001.png", mask)
    with pytest.raises(
        UserError, match=r"train_0001.png' has the class ids \[7, 90\], which are neither"
    ):
        run(root)


def test_a_mask_that_is_void_all_over_is_named(tree):
    root, written = tree
    void = np.full_like(written[1].mask, 255)
    scenes.save_mask(root / "SegmentationClass" / "train_0001.png", void)
    with pytest.raises(UserError, match="train_0001.png' has no pixel with a class"):
        run(root)


def test_a_mask_of_colours_is_named(tree):
    root, _ = tree
    path = root / "SegmentationClass" / "train_0002.png"
    Image.open(path).convert("RGB").save(path)
    with pytest.raises(UserError, match="train_0002.png' holds colours"):
        run(root)


def test_a_mask_of_another_size_is_named(tree):
    root, written = tree
    scenes.save_mask(root / "SegmentationClass" / "train_0003.png", written[3].mask[:-1])
    with pytest.raises(
        UserError, match=r"48 x 48 pixels, but its map '.*train_0003.png' has 48 x 47"
    ):
        run(root)


def test_other_classes_in_the_test_set_are_an_error(tree, tmp_path_factory, images_dir):
    root, _ = tree
    other = tmp_path_factory.mktemp("other")
    scenes.write_voc(other, images_dir / "test", "test", 1, size=48, classes=("cat", "dog"))
    splits = Splits(f"voc:{root}:train", f"voc:{other}:test")
    with pytest.raises(UserError, match="do not have the same classes"):
        segmentation.evaluate(pretrained(), splits, config())


def test_too_few_images_to_hold_some_out_are_an_error(tree):
    with pytest.raises(UserError, match="4 training images are too few to hold out 10%"):
        run(tree[0], learning_rates=(0.1, 0.01), validation_fraction=0.1)


def test_pixels_cannot_be_fine_tuned(tree):
    with pytest.raises(UserError, match="cannot be trained further"):
        run(tree[0], model=pretrained(build=None))


@pytest.mark.parametrize(
    "field, value",
    [
        ("learning_rates", ()),
        ("learning_rates", (0.1, 0.0)),
        ("scale", (2.0, 0.5)),
        ("crop_size", 0),
        ("channels", 0),
        ("dilation", 0),
        ("validation_fraction", 1.0),
        ("steps", 0),
    ],
)
def test_a_bad_value_is_an_error_that_names_it(tmp_path, field, value):
    with pytest.raises(UserError, match=rf"segmentation\.{field} is .*; give "):
        run(tmp_path, **{field: value})
