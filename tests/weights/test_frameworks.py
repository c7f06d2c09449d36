"""Networks of full width in PyTorch and haiku against what their files become here.

They need the extra weights-test; test_read.py proves the same on narrow networks without it.
"""

import numpy as np
import pytest
from pictures import encoded, photo
from PIL import Image

from byol_tf import build, weights
from byol_tf.weights import imported


@pytest.fixture(scope="module")
def files(images_dir, tmp_path_factory):
    """A photo of 32 pixels, one of several joined, and a large one that is not square."""
    small = sorted(images_dir.glob("test/*/0007.jpg"))
    pixels = [np.asarray(Image.open(file).convert("RGB")) for file in small]
    joined = np.concatenate([np.concatenate(pixels, axis=1)] * 11)  # 352 x 320
    folder = tmp_path_factory.mktemp("photos")
    for name, image in (("joined", joined), ("large", photo(500, 701))):
        (folder / f"{name}.jpg").write_bytes(encoded(Image.fromarray(image), "JPEG", quality=95))
    return [small[0], *sorted(folder.glob("*.jpg"))]


@pytest.fixture(scope="module")
def images_dir(request):
    return request.config.rootpath / "examples" / "images"


def embeddings(path, files):
    encoder, config = imported.build(weights.read(str(path)))
    preprocess = build.preprocessing_from_config(config)
    images = preprocess.from_bytes([file.read_bytes() for file in files])
    return encoder(images, training=False).numpy()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_torchvisions_networks_give_the_same_embedding(name, files, tmp_path):
    for package in ("torch", "torchvision"):
        pytest.importorskip(package, reason=f"{package} is in the extra weights-test")
    import torch
    import torch_encoders as in_torch
    import torchvision

    images = in_torch.preprocessed(files, in_torch.EVALUATION)
    model = in_torch.drawn(getattr(torchvision.models, name)(), images)
    torch.save(model.state_dict(), tmp_path / "x.pth")
    model.fc = torch.nn.Identity()
    wanted = in_torch.embedding(model, images)
    found = embeddings(tmp_path / "x.pth", files)
    print(name, np.abs(found - wanted).max(), np.abs(wanted).max())
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ResNet18", "ResNet50"])
def test_deepminds_networks_give_the_same_embedding(name, files, tmp_path):
    for package in ("haiku", "jax", "dill"):
        pytest.importorskip(package, reason=f"{package} is in the extra weights-test")
    import haiku_encoders as in_haiku

    images = in_haiku.preprocessed(files)
    encoder = in_haiku.drawn(getattr(in_haiku, name), 64, images)
    encoder.save(tmp_path / "x.pkl")
    wanted = encoder.embedding(images)
    found = embeddings(tmp_path / "x.pkl", files)
    print(name, np.abs(found - wanted).max(), np.abs(wanted).max())
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)
