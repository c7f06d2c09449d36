"""Images with boxes around their objects, read from VOC's XML files or a COCO JSON file."""

import contextlib
import dataclasses
import io
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf
from absl import logging

from byol_tf.errors import UserError
from byol_tf.evaluation.dense import voc
from byol_tf.images.preprocessing import decode_image

if TYPE_CHECKING:
    from pycocotools.coco import COCO

# COCO's own boxes exceed their images by hundredths of a pixel: x and width are rounded separately.
_SLACK = 1.0

# Class index, box, difficult, crowd.
_Object = tuple[int, tuple[float, float, float, float], bool, bool]


@dataclasses.dataclass(frozen=True, eq=False)
class BoxedImage:
    """An image and the n objects in it; n may be 0.

    Attributes:
        image_id: VOC's ID, a string, or COCO's, a number.
        path: Path of the file.
        width, height: Size in pixels.
        boxes: Boxes, float64 `[n, 4]`, (xmin, ymin, xmax, ymax) in pixels, from 0 and half-open,
            within the image and not empty.
        classes: Classes, int32 `[n]`, positions in `BoxData.class_names`.
        difficult: VOC's flag for objects that a detector is not scored on, bool `[n]`.
        crowd: COCO's flag for a box around many objects, neither trained nor scored on, bool `[n]`.
    """

    image_id: int | str
    path: str
    width: int
    height: int
    boxes: np.ndarray
    classes: np.ndarray
    difficult: np.ndarray
    crowd: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class BoxData:
    """A split of a data set for detection.

    Attributes:
        name: Name as the user gave it.
        class_names: Class names in the order of `category_ids`.
        category_ids: Numbers of the classes in COCO's format: those of the file; for VOC 1, 2, ...
        images: Images with their boxes, at least one.
    """

    name: str
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    images: tuple[BoxedImage, ...]


def open_boxes(name: str) -> BoxData:
    """Reads all annotations of a split and checks that its images exist.

    Args:
        name: Name of the split: `voc:ROOT:SPLIT`, such as `voc:VOCdevkit/VOC2007:trainval`, or
            `coco:IMAGES:FILE`, such as
            `coco:coco/train2017:coco/annotations/instances_train2017.json`.

    Raises:
        UserError: The name has another form; something is missing or malformed; an annotation
            belongs to no image or category; a box is empty or outside its image (in COCO's format
            by more than a pixel).
    """
    if name.startswith(voc.PREFIX):
        return _open_voc(name)
    # The colon of gs:// does not end a path.
    if match := re.fullmatch("coco:(.+?):((?!//).+)", name):
        return _open_coco(name, *match.groups())
    raise UserError(
        f"'{name}' names no boxes; give voc:ROOT:SPLIT or coco:IMAGES:ANNOTATIONS.json, such as "
        "voc:VOC2007:trainval or coco:train2017:annotations/instances_train2017.json."
    )


def check_images(data: BoxData, decode: Callable[[tf.Tensor], tf.Tensor] = decode_image) -> None:
    """Decodes every image once, by `decode`, before hours of training.

    Raises:
        UserError: A file is not a complete image, or its size differs from its annotation.
    """

    def size(path: tf.Tensor) -> tf.Tensor:
        return tf.shape(decode(tf.io.read_file(path)))[:2]

    paths = tf.data.Dataset.from_tensor_slices([image.path for image in data.images])
    sizes = paths.map(size, num_parallel_calls=tf.data.AUTOTUNE).as_numpy_iterator()
    for done, image in enumerate(data.images, start=1):
        try:
            height, width = next(sizes)
        except tf.errors.OpError as error:
            raise UserError(
                f"'{image.path}' of '{data.name}' is not a complete image (JPEG, PNG, BMP or GIF); "
                "replace it."
            ) from error
        if (width, height) != (image.width, image.height):
            raise UserError(
                f"'{image.path}' has {width} x {height} pixels, but its annotation in "
                f"'{data.name}' says {image.width} x {image.height}; correct the annotation."
            )
        logging.log_every_n_seconds(
            logging.INFO, "%s: checked %d of %d images", 10, data.name, done, len(data.images)
        )


def _open_voc(name: str) -> BoxData:
    data = voc.open_voc(name, "Main")
    images = []
    for image_id in data.image_ids:
        annotation = data.annotation(image_id)
        objects = [
            (item.class_index, item.box, item.difficult, False) for item in annotation.objects
        ]
        size = annotation.width, annotation.height
        images.append(_boxed_image(image_id, data.image_path(image_id), size, objects))
    category_ids = tuple(range(1, len(data.class_names) + 1))
    return BoxData(name, data.class_names, category_ids, tuple(images))


def _open_coco(name: str, folder: str, path: str) -> BoxData:
    if not tf.io.gfile.isdir(folder):
        raise UserError(f"the folder '{folder}' of '{name}' does not exist; correct the path.")
    if not tf.io.gfile.exists(path) or tf.io.gfile.isdir(path):
        raise UserError(f"the file '{path}' of '{name}' does not exist; correct the path.")
    coco = _read_coco(path)
    category_ids = tuple(sorted(coco.cats))
    class_index = {category: index for index, category in enumerate(category_ids)}
    images, without_area = [], 0
    try:
        class_names = tuple(str(coco.cats[category]["name"]) for category in category_ids)
        for image_id, entry in coco.imgs.items():
            size = _coco_size(entry, path)
            annotations = coco.imgToAnns.get(image_id, ())
            with_area = [each for each in annotations if not _is_without_area(each)]
            without_area += len(annotations) - len(with_area)
            objects = [
                (
                    class_index[annotation["category_id"]],
                    _coco_box(annotation, entry, path),
                    False,
                    bool(annotation.get("iscrowd", 0)),
                )
                for annotation in with_area
            ]
            image_path = os.path.join(folder, entry["file_name"])
            images.append(_boxed_image(image_id, image_path, size, objects))
    except KeyError as error:
        raise UserError(
            f"'{path}' is not a COCO annotation file: an entry has no {error}; correct it."
        ) from error
    if len(set(class_names)) < len(class_names):
        raise UserError(f"'{path}' has two categories of the same name; rename one of them.")
    if without_area:
        logging.warning("%s: ignoring %d boxes without area.", path, without_area)
    _check_files(name, folder, [image.path for image in images])
    return BoxData(name, class_names, category_ids, tuple(images))


def _is_without_area(annotation: dict) -> bool:
    """Returns whether a box has no area, as two boxes of COCO's own train2017."""
    box = annotation["bbox"]
    return isinstance(box, list) and len(box) == 4 and 0 in box[2:]


def _read_coco(path: str) -> "COCO":
    """Reads the file; every annotation of the result has an image and a category."""
    from pycocotools.coco import COCO

    coco = COCO()
    try:
        with tf.io.gfile.GFile(path) as file:
            coco.dataset = json.load(file)
        with contextlib.redirect_stdout(io.StringIO()):
            coco.createIndex()
        repeated = len(coco.imgs) < len(coco.dataset["images"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"'{path}' is not a COCO annotation file ({error!r}); correct it."
        ) from error
    if not coco.imgs or not coco.cats:
        raise UserError(f"'{path}' has no images or no categories; give COCO annotations of boxes.")
    if repeated:
        raise UserError(f"'{path}' gives two images the same id; number them differently.")
    for what, used, known in (
        ("image", coco.imgToAnns, coco.imgs),
        ("category", coco.catToImgs, coco.cats),
    ):
        if unknown := [number for number in used if number not in known]:
            raise UserError(
                f"'{path}' has annotations for the {what} {unknown[0]}, which it does not list "
                f"({len(unknown)} such ids); add the {what}, or remove the annotations."
            )
    return coco


def _coco_size(entry: dict, path: str) -> tuple[int, int]:
    size = entry["width"], entry["height"]
    # Written so that NaN fails.
    if not all(isinstance(side, (int, float)) and side >= 1 and side % 1 == 0 for side in size):
        raise UserError(
            f"'{path}': the image '{entry['file_name']}' has the width {size[0]!r} and the height "
            f"{size[1]!r}; give whole numbers of pixels."
        )
    return int(size[0]), int(size[1])


def _coco_box(annotation: dict, entry: dict, path: str) -> tuple[float, float, float, float]:
    """Returns (xmin, ymin, xmax, ymax), cut to the image."""
    try:
        x, y, width, height = map(float, annotation["bbox"])
    except (TypeError, ValueError):
        x = y = width = height = math.nan
    inside = (
        x >= -_SLACK
        and y >= -_SLACK
        and x + width <= entry["width"] + _SLACK
        and y + height <= entry["height"] + _SLACK
    )
    box = max(x, 0.0), max(y, 0.0), min(x + width, entry["width"]), min(y + height, entry["height"])
    # Written so that NaN fails.
    if not (inside and box[0] < box[2] and box[1] < box[3]):
        raise UserError(
            f"'{path}': the box {annotation['bbox']} (x, y, width, height) of annotation "
            f"{annotation['id']} is empty or not within its image '{entry['file_name']}' of "
            f"{entry['width']} x {entry['height']} pixels; correct or remove it."
        )
    return box


def _boxed_image(
    image_id: int | str, path: str, size: tuple[int, int], objects: Sequence[_Object]
) -> BoxedImage:
    classes, boxes, difficult, crowd = zip(*objects, strict=True) if objects else ((), (), (), ())
    width, height = size
    return BoxedImage(
        image_id,
        path,
        width,
        height,
        boxes=np.array(boxes, np.float64).reshape(-1, 4),
        classes=np.array(classes, np.int32),
        difficult=np.array(difficult, bool),
        crowd=np.array(crowd, bool),
    )


def _check_files(name: str, folder: str, paths: Iterable[str]) -> None:
    """Checks by listing folders: on a network disk, 100,000 single look-ups take long."""
    listings: dict[str, set[str]] = {}
    for path in paths:
        parent, file = os.path.split(path)
        if parent not in listings:
            exists = tf.io.gfile.isdir(parent)
            listings[parent] = set(tf.io.gfile.listdir(parent)) if exists else set()
        if file not in listings[parent]:
            raise UserError(
                f"'{name}' annotates the image '{path}', which does not exist; add the file, or "
                f"correct the folder '{folder}'."
            )
