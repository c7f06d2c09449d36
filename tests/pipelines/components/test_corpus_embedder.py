import keras
import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from pictures import encoded, photo
from PIL import Image

from byol_tf import export
from byol_tf.errors import UserError

SIZE = 16
# Fixtures import TFX, so that a run without slow tests does not wait for it.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from tfx.v1.types import standard_artifacts

    encoder = keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            keras.layers.Conv2D(8, 3),
            keras.layers.GlobalAveragePooling2D(),
        ],
        name="tiny",
    )
    model = standard_artifacts.Model()
    model.uri = str(tmp_path_factory.mktemp("model"))
    export.save_encoder(encoder, f"{model.uri}/Format-Serving", image_size=SIZE)
    return model


@pytest.fixture
def data(tmp_path):
    """Makes seventy photos in two folders, more than one batch."""
    for number in range(70):
        path = tmp_path / "data" / str(number % 2) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(Image.fromarray(photo(20, 24, number)), "PNG"))
    return tmp_path / "data"


@pytest.fixture
def embed(model, tmp_path):
    from tfx.v1.types import standard_artifacts

    from pipelines.artifacts import Embeddings
    from pipelines.components.corpus_embedder.executor import Executor

    def run(data, blessed=1):
        """Returns the artifact, and embeddings by key."""
        embeddings, blessing = Embeddings(), standard_artifacts.ModelBlessing()
        embeddings.uri = str(tmp_path / "embeddings")
        (tmp_path / "embeddings").mkdir()
        blessing.set_int_custom_property("blessed", blessed)
        executor = Executor(Executor.Context(tmp_dir=str(tmp_path / "tmp"), unique_id="1"))
        executor.Do(
            {"model": [model], "model_blessing": [blessing]},
            {"embeddings": [embeddings]},
            {"data_dir": str(data), "versions": "{}"},
        )
        rows = {}
        for path in (tmp_path / "embeddings").iterdir():
            assert path.suffix == ".parquet"
            table = pq.read_table(path)
            columns = (table[name].to_pylist() for name in ("key", "embedding"))
            rows |= dict(zip(*columns, strict=True))
        return embeddings, rows

    return run


def test_every_image_gets_the_encoders_embedding(model, data, embed):
    artifact, rows = embed(data)
    paths = {path.relative_to(data).as_posix(): path for path in data.glob("*/*.png")}
    assert set(rows) == set(paths) and len(rows) == 70
    assert artifact.get_int_custom_property("num_images") == 70
    encode, preprocessing, _ = export.load_encoder(f"{model.uri}/Format-Serving")
    for key, path in paths.items():
        pixels = tf.constant(np.asarray(Image.open(path)))
        expected = encode(preprocessing(pixels)[tf.newaxis]).numpy()[0]
        np.testing.assert_allclose(rows[key], expected, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_embedded_is_counted_and_left_out(data, embed):
    (data / "bad.jpg").write_bytes(b"text")
    (data / "more.tfrecord").write_bytes(b"records")
    (data / "0" / "\udcff.png").write_bytes((data / "0" / "0.png").read_bytes())
    artifact, rows = embed(data)
    assert artifact.get_int_custom_property("num_images") == len(rows) == 71
    assert artifact.get_int_custom_property("num_corrupt") == 1
    assert rows[r"0/\xff.png"] == rows["0/0.png"]


def test_an_encoder_that_is_not_blessed_embeds_nothing(data, embed):
    assert embed(data, blessed=0)[1] == {}


def test_a_corpus_without_images_is_a_sentence(tmp_path, embed):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.tfrecord").touch()
    with pytest.raises(UserError, match="holds no images to embed"):
        embed(tmp_path / "data")
