"""The pipeline on grey images of 16 bits: from a folder to a served encoder and its client."""

import io
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from pictures import encoded, photo
from PIL import Image
from serve import Server

from byol_tf.configs import cifar10, defaults
from byol_tf.images.preprocessing import decode_image
from pipelines.settings import Settings
from serving.client import EmbeddingClient
from serving.client.transport import PixelFormat

pytestmark = pytest.mark.slow  # Imports TFX.


def deep(number):
    """Returns a grey image, uint16 `[48, 40]`."""
    return (np.mean(photo(48, 40, number), axis=-1) * 257).astype(np.uint16)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs the pipeline on forty images, larger than `shorter_side`; returns folder, settings."""
    from pipelines.runners import local_run

    folder = tmp_path_factory.mktemp("grey")
    (folder / "data").mkdir()
    (folder / "root").mkdir()
    for number in range(40):
        (folder / "data" / f"{number:02d}.png").write_bytes(
            encoded(Image.fromarray(deep(number)), "PNG")
        )
    config = cifar10.get_config("smoke").copy_and_resolve_references()
    with config.unlocked():
        defaults.set_channels(config, 1)
        config.update(bit_depth=16, batch_size=16, precision="float32", knn_every_epochs=0)
    settings = Settings(
        str(folder / "data"),
        str(folder / "root"),
        str(folder / "serving"),
        config.to_dict(),
        output_splits={"train": 3, "eval": 1},
        labels="none",
        labelled=False,
        shorter_side=36,
        min_spread=0.0,
        embed_data_dir=str(folder / "data"),
    )
    print(local_run.run(settings))
    return folder


@pytest.fixture(scope="module")
def version(run):
    (path,) = (run / "serving" / "byol").iterdir()
    return path


def test_the_normalisation_is_measured_on_the_transformed_images_and_reported(run, version):
    (files,) = (run / "root" / "Transform" / "transformed_examples").iterdir()
    paths = [str(path) for path in (files / "Split-train").iterdir()]
    pixels = []
    for record in tf.data.TFRecordDataset(paths, "GZIP").as_numpy_iterator():
        feature = tf.train.Example.FromString(record).features.feature
        (content,) = feature["image/encoded"].bytes_list.value
        with Image.open(io.BytesIO(content)) as opened:
            assert opened.mode.startswith("I") and min(opened.size) == 36
        decoded = decode_image(content, 1, 16).numpy()
        assert decoded.shape == (43, 36, 1)
        pixels.append(decoded[4:40])  # The central square.
    values = np.stack(pixels) / 65535
    card = json.loads((version / "assets.extra" / "model_card.json").read_text())
    (mean,), (std,) = (card["preprocessing"][name] for name in ("mean", "std"))
    assert mean == pytest.approx(values.mean(), rel=0.02)
    assert std == pytest.approx(values.std(), rel=0.05)
    assert card["config"]["normalize"]["mean"] == [mean]
    (report,) = (run / "root" / "reports").iterdir()
    text = report.read_text()
    assert "1 channel, 16 bit" in text and f"mean {mean:.4g}; std {std:.4g}" in text


def test_server_client_and_embedded_corpus_give_the_models_embeddings(run, version, tmp_path):
    images = [deep(number)[..., np.newaxis] for number in range(4)]
    model = tf.saved_model.load(str(version))
    batch = tf.constant(np.stack(images))
    expected = model.signatures["pixels"](images=batch)["embedding"].numpy()
    files = [run / "data" / f"{number:02d}.png" for number in range(4)]
    with Server(
        tmp_path / "log", f"--model_base_path={run}/serving/byol", "--model_name=byol"
    ) as s:
        for address in (s.address, s.url):
            with EmbeddingClient(address) as client:
                assert client.pixel_format() == PixelFormat(1, "uint16")
                for given in (images, files):
                    found = client.embed(given)
                    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    (corpus,) = (run / "root" / "CorpusEmbedder" / "embeddings").iterdir()
    table = pq.read_table(corpus).to_pydict()
    rows = dict(zip(table["key"], table["embedding"], strict=True))
    assert len(rows) == 40
    found = [rows[file.name] for file in files]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
