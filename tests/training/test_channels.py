"""Images of other channels and depths from the folder to the export, against NumPy."""

import json

import numpy as np
import pytest
import tensorflow as tf
from pictures import encoded
from PIL import Image

from byol_tf import data, export, runs
from byol_tf.build import preprocessing_from_config
from byol_tf.configs import cifar10_demo, defaults
from byol_tf.errors import UserError
from byol_tf.images import bands
from byol_tf.images.preprocessing import Preprocessing
from byol_tf.sources import open_source
from byol_tf.training import channel_statistics
from byol_tf.training.pretrain import pretrain

SIZE = 32


def scene(channels: int, seed: int) -> np.ndarray:
    """Returns blurred noise, uint16 `[32, 32, C]`, each band at a level of its own."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((4, 4, channels)).repeat(8, axis=0).repeat(8, axis=1)
    level = np.linspace(0.2, 0.7, channels)
    return ((level + 0.3 * coarse * rng.random(coarse.shape)) * 65535).astype(np.uint16)


def write(folder, images: list[np.ndarray]) -> str:
    """Writes X-rays as PNG, and images of more bands as TIFF."""
    folder.mkdir()
    for number, image in enumerate(images):
        path = folder / f"{number}.{'png' if image.shape[2] == 1 else 'tif'}"
        if image.shape[2] == 1:
            path.write_bytes(encoded(Image.fromarray(image[..., 0]), "PNG"))
        else:
            pytest.importorskip("imagecodecs")
            options = {"photometric": "minisblack", "planarconfig": "contig"}
            pytest.importorskip("tifffile").imwrite(path, image, **options)
    return str(folder)


def recipe(channels: int, bit_depth: int = 16):
    config = cifar10_demo.get_config("smoke")
    defaults.set_channels(config, channels)
    config.update(bit_depth=bit_depth, precision="float32", batch_size=4, eval_crop_fraction=1.0)
    return config.copy_and_resolve_references()


@pytest.fixture(scope="module", params=[1, 5], ids=["X-rays", "five bands"])
def trained(request, tmp_path_factory):
    """Returns images, their folder and the run of a training on them."""
    folder = tmp_path_factory.mktemp("channels")
    images = [scene(request.param, seed) for seed in range(8)]
    photos, run_dir = write(folder / "photos", images), str(folder / "run")
    pretrain(recipe(request.param), photos, run_dir)
    return np.stack(images), photos, run_dir


def test_the_run_says_what_numpy_measures_and_resumes_with_it(trained):
    images, photos, run_dir = trained
    config = runs.load_config(run_dir)
    assert (config.channels, config.bit_depth) == (images.shape[-1], 16)
    unit = images.astype(np.float64) / 65535
    np.testing.assert_allclose(config.normalize.mean, unit.mean(axis=(0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(config.normalize.std, unit.std(axis=(0, 1, 2)), rtol=1e-5)
    # The same command again finds the run complete; one with other numbers is refused.
    pretrain(recipe(images.shape[-1]), photos, run_dir)
    other = recipe(images.shape[-1])
    other.normalize.mean = other.normalize.std = (0.5,) * images.shape[-1]
    with pytest.raises(UserError, match="another config .*normalize.mean"):
        pretrain(other, photos, run_dir)


def test_an_export_embeds_what_numpy_preprocesses(trained, tmp_path):
    images, photos, run_dir = trained
    config = runs.load_config(run_dir)
    encoder, preprocessing = runs.restore_encoder(run_dir), preprocessing_from_config(config)
    path = str(tmp_path / "encoder" / "1")
    export.save_encoder(encoder, path, preprocessing=preprocessing)

    normalized = (images / 65535 - config.normalize.mean) / config.normalize.std
    expected = encoder(normalized.astype(np.float32), training=False)
    files = [bands.encode_png(image).numpy() for image in images]
    signatures = tf.saved_model.load(path).signatures
    for name, value in (("serving_default", files), ("pixels", images)):
        (output,) = signatures[name](tf.constant(value)).values()
        np.testing.assert_allclose(output, expected, atol=1e-4)
    read, _, _ = next(iter(data.evaluation_dataset(photos, preprocessing, len(images))))
    np.testing.assert_allclose(read, normalized, atol=1e-4)

    _, loaded, card = export.load_saved_model(path)
    assert loaded == preprocessing and loaded.channels == images.shape[-1]
    assert json.loads(json.dumps(card))["preprocessing"]["bit_depth"] == 16
    prepared = str(tmp_path / "prepared" / "1")
    export.save_encoder(
        encoder, prepared, preprocessing=preprocessing, prepare=lambda files: tf.identity(files)
    )
    (output,) = tf.saved_model.load(prepared).signatures["pixels"](tf.constant(images)).values()
    np.testing.assert_allclose(output, expected, atol=1e-4)


def test_images_of_another_number_of_channels_name_the_field(tmp_path):
    folder = write(tmp_path / "bands", [scene(5, seed) for seed in range(6)])
    with pytest.raises(UserError, match=r"5 bands, not the 13 .*give --config\.channels=5"):
        channel_statistics.measure(open_source(folder), 13, 16, SIZE)
    config, source = recipe(3), open_source(folder)
    sentence = pytest.raises(UserError, match=r"5 bands, not the 3 .*give --config\.channels=5")
    with sentence, data.clean_errors(source):
        next(iter(data.two_view_dataset(source, config)))


def test_each_image_counts_alike_and_a_constant_channel_is_named(tmp_path):
    large = np.kron(scene(5, 1), np.ones((2, 2, 1), np.uint16))
    source = open_source(write(tmp_path / "sizes", [scene(5, 0), large]))
    mean, _, count = channel_statistics.measure(source, 5, 16, SIZE)
    both = np.stack([scene(5, 0), scene(5, 1)]) / 65535
    assert count == 2
    np.testing.assert_allclose(mean, both.mean(axis=(0, 1, 2)), rtol=1e-3)

    constant = [scene(5, seed) for seed in range(2)]
    for image in constant:
        image[..., 3] = 40_000
    source = open_source(write(tmp_path / "constant", constant))
    with pytest.raises(UserError, match="channel 3 .* one value everywhere"):
        channel_statistics.measure(source, 5, 16, SIZE)


def test_values_that_do_not_fit_the_channels_get_a_sentence():
    config = recipe(5)
    defaults.check_channels(config)
    config.augment.view_2.hue = 0.1
    with pytest.raises(UserError, match=r"need RGB; give --config\.augment\.view_2\.hue=0,"):
        defaults.check_channels(config)
    config = recipe(5)
    config.normalize.mean = (0.5,) * 3
    with pytest.raises(UserError, match=r"normalize.mean has 3 values .* with 5 each"):
        defaults.check_channels(config)
    for field, value in (("channels", 0), ("channels", 65), ("channels", True), ("bit_depth", 12)):
        with pytest.raises(UserError, match=f"{field} is {value}"):
            defaults.check_channels(config.__class__({**config.to_dict(), field: value}))
    with pytest.raises(UserError, match="bilinear"):
        Preprocessing(8, resize="bilinear", bit_depth=16)
