"""Small scenes for dense tasks, composed of real photos: VOC trees and depth maps.

A scene is a background photo with other photos pasted into rectangles and ellipses. The pasted ones
are the objects: the class and distance of each pixel are known from the composition. The seed
decides everything.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from xml.etree import ElementTree

import numpy as np
from PIL import Image

# Photos of the other folders are backgrounds, so that an object's class is never background.
CLASSES = ("airplane", "automobile", "bird", "cat", "frog", "horse")
VOID = 255


@dataclasses.dataclass(frozen=True)
class Object:
    """A pasted photo.

    Attributes:
        class_index: Index into the tree's classes.
        box: Box of the visible pixels, (xmin, ymin, xmax, ymax), 0-based, half-open.
    """

    class_index: int
    box: tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True)
class Scene:
    """A scene of S x S pixels.

    Attributes:
        image: Pixels, uint8 `[S, S, 3]`.
        mask: Class ids, uint8 `[S, S]`; 0 is background, class_index + 1 an object, 255 an outline.
        depth: Depth in millimetres, uint16 `[S, S]`; 0 along the outlines, where a sensor sees
            nothing.
        objects: One to three objects, from far to near.
    """

    image: np.ndarray
    mask: np.ndarray
    depth: np.ndarray
    objects: tuple[Object, ...]


def compose(
    photos: pathlib.Path,
    count: int,
    size: int = 96,
    seed: int = 0,
    classes: Sequence[str] = CLASSES,
    max_objects: int = 3,
) -> list[Scene]:
    """Composes scenes.

    Args:
        photos: Folder with one subfolder of images per class, some of them not in `classes`.
        count: Number of scenes.
        size: S, their side in pixels.
        seed: Random seed.
        classes: Class names of the objects.
        max_objects: Largest number of objects in a scene.
    """
    photos = pathlib.Path(photos)
    objects = [sorted((photos / name).iterdir()) for name in classes]
    backgrounds = [
        path
        for folder in sorted(photos.iterdir())
        if folder.is_dir() and folder.name not in classes
        for path in sorted(folder.iterdir())
    ]
    rng = np.random.default_rng(seed)
    return [_scene(objects, backgrounds, size, max_objects, rng) for _ in range(count)]


def write_voc(
    root: pathlib.Path, photos: pathlib.Path, split: str, count: int, **options
) -> list[Scene]:
    """Adds a split to a VOC tree; its images are named `<split>_0000` and so on.

    Args:
        root: Root of the tree, created if missing. All splits of a tree must have the same
            `classes`.
        photos, count, options: Arguments of `compose`.
        split: Name of the split, such as `trainval`.

    Returns:
        The scenes, in the order of the split's list.
    """
    root, classes = pathlib.Path(root), options.get("classes", CLASSES)
    scenes = compose(photos, count, **options)
    names = [f"{split}_{index:04d}" for index in range(count)]
    for folder in ("JPEGImages", "Annotations", "SegmentationClass"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for kind in ("Main", "Segmentation"):
        (root / "ImageSets" / kind).mkdir(parents=True, exist_ok=True)
        (root / "ImageSets" / kind / f"{split}.txt").write_text("".join(f"{n}\n" for n in names))
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in classes))
    for name, scene in zip(names, scenes, strict=True):
        Image.fromarray(scene.image).save(root / "JPEGImages" / f"{name}.jpg", quality=95)
        save_mask(root / "SegmentationClass" / f"{name}.png", scene.mask)
        _annotation(name, scene, classes).write(root / "Annotations" / f"{name}.xml")
    return scenes


def write_depth(root: pathlib.Path, photos: pathlib.Path, count: int, **options) -> list[Scene]:
    """Writes `images/*.jpg` and `depth/*.png` of 16 bits; the arguments are those of `compose`."""
    root = pathlib.Path(root)
    scenes = compose(photos, count, **options)
    for folder in ("images", "depth"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for index, scene in enumerate(scenes):
        Image.fromarray(scene.image).save(root / "images" / f"{index:04d}.jpg", quality=95)
        Image.fromarray(scene.depth).save(root / "depth" / f"{index:04d}.png")
    return scenes


def save_mask(path: pathlib.Path, mask: np.ndarray) -> None:
    """Saves class ids, uint8 `[H, W]`, as a palette PNG with VOC's colours."""
    image = Image.fromarray(mask)
    image.putpalette(_palette())  # Turns grey into palette; the pixels stay the ids.
    image.save(path)


def _scene(objects, backgrounds, size, max_objects, rng) -> Scene:
    image = _resized(backgrounds[rng.integers(len(backgrounds))], size, size)
    # The ground: 8 m at the horizon above, 5 m below.
    ramp = np.linspace(8000, 5000, size)
    depth = np.repeat(ramp[:, np.newaxis], size, axis=1)
    instances = np.zeros((size, size), np.int32)
    classes = []
    # The smaller a photo, the farther away it is; near ones hide far ones.
    for fraction in np.sort(rng.uniform(0.25, 0.6, size=rng.integers(1, max_objects + 1))):
        class_index = int(rng.integers(len(objects)))
        paths = objects[class_index]
        pasted = _resized(paths[rng.integers(len(paths))], *[round(size * fraction)] * 2)
        place = _free_place(instances, len(pasted), rng)
        if place is None:
            continue
        classes.append(class_index)
        rows, columns = (slice(start, start + len(pasted)) for start in place)
        shape = _ellipse(len(pasted)) if rng.random() < 0.5 else np.ones(pasted.shape[:2], bool)
        image[rows, columns][shape] = pasted[shape]
        depth[rows, columns][shape] = 1000 / fraction
        instances[rows, columns][shape] = len(classes)
    outline = _outline(instances)
    mask = np.concatenate([[0], np.array(classes) + 1])[instances]
    return Scene(
        image=image,
        mask=np.where(outline, VOID, mask).astype(np.uint8),
        depth=np.where(outline, 0, depth).astype(np.uint16),
        objects=tuple(
            Object(class_index, _box(instances == number))
            for number, class_index in enumerate(classes, start=1)
        ),
    )


def _free_place(instances, side, rng) -> tuple[int, int] | None:
    """Returns the top left corner of a square that hides at most a quarter of each object."""
    for _ in range(20):
        top, left = rng.integers(0, len(instances) - side + 1, size=2)
        hidden = np.bincount(instances[top : top + side, left : left + side].ravel())
        whole = np.bincount(instances.ravel(), minlength=len(hidden))[: len(hidden)]
        if np.all(hidden[1:] <= whole[1:] / 4):
            return int(top), int(left)
    return None


def _resized(path, height, width) -> np.ndarray:
    with Image.open(path) as image:
        image = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    return np.array(image)


def _ellipse(side) -> np.ndarray:
    offsets = (np.arange(side) - (side - 1) / 2) / (side / 2)
    return offsets[:, np.newaxis] ** 2 + offsets**2 <= 1


def _outline(instances) -> np.ndarray:
    """Returns the pixels whose right or lower neighbour belongs to something else."""
    outline = np.zeros(instances.shape, bool)
    outline[:-1] |= instances[:-1] != instances[1:]
    outline[:, :-1] |= instances[:, :-1] != instances[:, 1:]
    return outline


def _box(visible) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(visible.any(axis=1)), np.flatnonzero(visible.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _annotation(name, scene, classes) -> ElementTree.ElementTree:
    """Returns the VOC XML of a scene: pixel numbers start at 1 and the last one is inside."""
    root = ElementTree.Element("annotation")

    def add(parent, tag, text=None):
        element = ElementTree.SubElement(parent, tag)
        element.text = None if text is None else str(text)
        return element

    add(root, "filename", f"{name}.jpg")
    size = add(root, "size")
    for tag, value in zip(("height", "width", "depth"), scene.image.shape, strict=True):
        add(size, tag, value)
    add(root, "segmented", 1)
    for item in scene.objects:
        element = add(root, "object")
        add(element, "name", classes[item.class_index])
        add(element, "difficult", 0)
        box = add(element, "bndbox")
        xmin, ymin, xmax, ymax = item.box
        for tag, value in (("xmin", xmin + 1), ("ymin", ymin + 1), ("xmax", xmax), ("ymax", ymax)):
            add(box, tag, value)
    return ElementTree.ElementTree(root)


def _palette() -> list[int]:
    """Returns VOC's colours: id bits 0, 3, 6 make red, 1, 4, 7 green, 2, 5 blue, from the top."""
    return [
        sum((index >> (3 * place + channel) & 1) << (7 - place) for place in range(3))
        for index in range(256)
        for channel in range(3)
    ]
