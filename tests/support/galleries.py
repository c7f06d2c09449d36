"""Embedded images for tests of reports."""

import pathlib

import numpy as np
from PIL import Image

from byol_tf.report.gallery import Gallery


def of_pixels(images_dir: pathlib.Path) -> Gallery:
    """Six test images of each of five classes, embedded as their own pixels."""
    classes = sorted(folder.name for folder in (images_dir / "test").iterdir())[:5]
    files = [f for name in classes for f in sorted((images_dir / "test" / name).iterdir())[:6]]
    pixels = [np.asarray(Image.open(file).convert("RGB"), np.float32).ravel() for file in files]
    return Gallery(
        embeddings=np.stack(pixels) / 255 - 0.5,
        images=[file.read_bytes() for file in files],
        keys=[f"{file.parent.name}/{file.name}" for file in files],
        labels=np.repeat(np.arange(5), 6),
        class_names=classes,
    )
