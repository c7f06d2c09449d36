import numpy as np
import pytest
import tensorflow as tf
from sklearn.neighbors import KNeighborsClassifier

from byol_tf.errors import UserError
from byol_tf.evaluation import frozen
from byol_tf.preprocessing import Preprocessing
from byol_tf.sources import open_source

PREPROCESSING = Preprocessing(32, 1.0, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
CLASSES = ("airplane", "bird", "frog")


def folder(path, images, numbers, classes=CLASSES):
    for name in classes:
        (path / name).mkdir(parents=True)
        for number in numbers:
            file = f"{number:04d}.jpg"
            (path / name / file).write_bytes((images / name / file).read_bytes())
    return open_source(str(path))


def pixels(images, training=False):
    return tf.reshape(images, [-1, 32 * 32 * 3])


@pytest.fixture
def images(tmp_path, images_dir):
    train = folder(tmp_path / "train", images_dir / "train", range(20))
    test = folder(tmp_path / "test", images_dir / "test", range(8))
    return frozen.Images(train, test, PREPROCESSING)


def read(source_dir, numbers):
    """32x32 files need no crop and no resize: what TensorFlow decodes, normalised by hand."""
    x, y = [], []
    for label, name in enumerate(CLASSES):
        for number in numbers:
            content = (source_dir / name / f"{number:04d}.jpg").read_bytes()
            x.append((tf.io.decode_jpeg(content).numpy().ravel() / 255 - 0.5) / 0.25)
            y.append(label)
    return np.array(x), np.array(y)


def test_knn_of_pixels_equals_scikit_learns_on_the_files(images, images_dir):
    x, y = read(images_dir / "train", range(20))
    test_x, test_y = read(images_dir / "test", range(8))
    reference = KNeighborsClassifier(
        60, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07)
    )
    expected = reference.fit(x, y).score(test_x, test_y)
    result = frozen.evaluate(pixels, images, ["knn"], num_views=3, seed=0)
    assert result.keys() == {"knn"}
    assert result["knn"].top_1 == pytest.approx(expected) and result["knn"].num_test == 24


def test_views_are_different_crops_of_the_training_images_in_their_order(images):
    train, test, views = images.passes(pixels, num_views=2, seed=3)
    assert len(train.keys) == 60 and len(test.keys) == 24
    for view in views:
        assert view.keys.tolist() == train.keys.tolist()
        assert view.labels.tolist() == train.labels.tolist()
        correlation = np.mean(
            [np.corrcoef(a, b)[0, 1] for a, b in zip(view.representations, train.representations)]
        )
        assert 0.1 < correlation < 0.9
    assert not np.allclose(views[0].representations, views[1].representations)
    again = images.passes(pixels, num_views=1, seed=3)[2]
    np.testing.assert_array_equal(again[0].representations, views[0].representations)


def test_linear_evaluation_without_views_trains_on_centre_crops(images):
    result = frozen.evaluate(pixels, images, ["linear"], num_views=0, seed=0)
    assert result.keys() == {"linear"}
    assert result["linear"].num_test == 24 and result["linear"].batch_size == 60


def test_a_jpeg_cut_off_near_its_end_is_left_out_of_all_passes(images, tmp_path):
    file = tmp_path / "train" / "bird" / "0004.jpg"
    file.write_bytes(file.read_bytes()[:-60])
    train, _, views = images.passes(pixels, num_views=1, seed=0)
    assert len(train.keys) == 59 and b"bird/0004.jpg" not in train.keys
    assert views[0].keys.tolist() == train.keys.tolist()


def test_unlabelled_images_are_refused(images, images_dir, tmp_path):
    (tmp_path / "flat").mkdir()
    content = (images_dir / "test" / "bird" / "0000.jpg").read_bytes()
    (tmp_path / "flat" / "0.jpg").write_bytes(content)
    flat = open_source(str(tmp_path / "flat"))
    with pytest.raises(UserError, match="flat' has no labels, and accuracy needs them"):
        frozen.Images(images.train, flat, PREPROCESSING)


def test_sets_with_different_classes_are_refused(images, images_dir, tmp_path):
    other = folder(tmp_path / "other", images_dir / "test", range(2), ("airplane", "ship"))
    with pytest.raises(UserError, match=r"differing: \['bird', 'frog', 'ship'\]"):
        frozen.Images(images.train, other, PREPROCESSING)
