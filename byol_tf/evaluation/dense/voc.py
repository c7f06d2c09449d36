"""PASCAL VOC's folders: images of a split, their masks, and boxes and classes from their XML files.

JPEGImages/ID.jpg   Annotations/ID.xml   SegmentationClass/ID.png
ImageSets/Main/SPLIT.txt   ImageSets/Segmentation/SPLIT.txt      one ID per line
classes.txt                                             only for other classes than VOC's
"""

import dataclasses
import math
import os
from collections.abc import Mapping
from xml.etree import ElementTree

import numpy as np
import tensorflow as tf

from byol_tf.errors import UserError
from byol_tf.sources import FolderSource

PREFIX = "voc:"
CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Object:
    """One annotated object.

    Attributes:
        class_index: Position of the class in `VOC.class_names`.
        box: Box (xmin, ymin, xmax, ymax) in float pixels, from 0 and half-open: the file's
            xmin - 1, ymin - 1, xmax, ymax. It lies within the image and is not empty.
        difficult: Whether it is marked as difficult and ignored when detection and classification
            are scored.
    """

    class_index: int
    box: tuple[float, float, float, float]
    difficult: bool


@dataclasses.dataclass(frozen=True)
class Annotation:
    """Content of an XML file: width and height of the image in pixels, and its objects."""

    width: int
    height: int
    objects: tuple[Object, ...]


@dataclasses.dataclass(frozen=True)
class VOC:
    """A split of a data set in VOC's folders.

    Attributes:
        name: Name as the user gave it.
        root: Path of the folder.
        class_names: Class names, indexed by `Object.class_index`.
        image_ids: Image IDs in the order of the split's file, at least one.
        annotations: Annotations by image ID; empty for a segmentation split.
    """

    name: str
    root: str
    class_names: tuple[str, ...]
    image_ids: tuple[str, ...]
    annotations: Mapping[str, Annotation]

    def image_path(self, image_id: str) -> str:
        """Returns the path of the JPEG file."""
        return os.path.join(self.root, "JPEGImages", f"{image_id}.jpg")

    def mask_path(self, image_id: str) -> str:
        """Returns the path of the PNG file of palette indices: classes, 0 background, 255 void."""
        return os.path.join(self.root, "SegmentationClass", f"{image_id}.png")

    def annotation(self, image_id: str) -> Annotation:
        """Returns boxes and classes of an image; the split must be opened as "Main"."""
        return self.annotations[image_id]


def open_voc(name: str, kind: str) -> VOC:
    """Opens a split and checks that all files it needs exist.

    Args:
        name: Name `voc:ROOT:SPLIT`, such as `voc:VOCdevkit/VOC2007:trainval`.
        kind: Kind of split: "Main" for classification and detection, which reads annotations, or
            "Segmentation", which needs masks.

    Raises:
        UserError: The name has another form; the folder, the split or one of its files is missing;
            an annotation is malformed, names an unknown class, or has a box that is empty or not
            within the image.
    """
    root, _, split = name.removeprefix(PREFIX).rpartition(":")
    if not name.startswith(PREFIX) or not root or not split or "/" in split:
        raise UserError(
            f"'{name}' names no VOC data; give voc:ROOT:SPLIT, such as voc:VOC2007:trainval."
        )
    if not tf.io.gfile.isdir(root):
        raise UserError(f"the folder '{root}' of '{name}' does not exist; correct the path.")
    image_ids = _image_ids(root, kind, split)
    data = VOC(name, root, _class_names(root), image_ids, {})
    _check_files(data, "JPEGImages", "jpg")
    if kind == "Segmentation":
        _check_files(data, "SegmentationClass", "png")
        return data
    _check_files(data, "Annotations", "xml")
    annotations = {image_id: _read_annotation(data, image_id) for image_id in image_ids}
    return dataclasses.replace(data, annotations=annotations)


def image_source(data: VOC) -> FolderSource:
    """Returns the images of a split in its order, without labels: they can show several classes."""
    files = [f"{image_id}.jpg" for image_id in data.image_ids]
    return FolderSource(os.path.join(data.root, "JPEGImages"), files)


def relevance(annotation: Annotation, num_classes: int) -> np.ndarray:
    """Returns int8 `[C]`: 1 where the class has an object, -1 if only difficult ones, else 0."""
    present = np.zeros(num_classes, np.int8)
    for difficult in (True, False):
        for entry in annotation.objects:
            if entry.difficult == difficult:
                present[entry.class_index] = -1 if difficult else 1
    return present


def _image_ids(root: str, kind: str, split: str) -> tuple[str, ...]:
    folder = os.path.join(root, "ImageSets", kind)
    path = os.path.join(folder, f"{split}.txt")
    if not tf.io.gfile.exists(path):
        found = tf.io.gfile.listdir(folder) if tf.io.gfile.isdir(folder) else []
        # Files such as dog_train.txt list the images of one class; they are not splits.
        splits = sorted(file[:-4] for file in found if file.endswith(".txt") and "_" not in file)
        raise UserError(f"there is no split '{path}'; give one of {splits}.")
    image_ids = _lines(path)
    if not image_ids:
        raise UserError(f"the split '{path}' is empty; write the ID of one image on each line.")
    if len(set(image_ids)) < len(image_ids):
        raise UserError(f"the split '{path}' names an image twice; remove the repeated lines.")
    return image_ids


def _class_names(root: str) -> tuple[str, ...]:
    path = os.path.join(root, "classes.txt")
    if not tf.io.gfile.exists(path):
        return CLASSES
    names = _lines(path)
    if not names or len(set(names)) < len(names):
        raise UserError(f"'{path}' is empty or names a class twice; write one class on each line.")
    return names


def _lines(path: str) -> tuple[str, ...]:
    with tf.io.gfile.GFile(path) as file:
        return tuple(line for line in map(str.strip, file) if line)


def _check_files(data: VOC, folder: str, extension: str) -> None:
    path = os.path.join(data.root, folder)
    if not tf.io.gfile.isdir(path):
        raise UserError(f"'{data.name}' has no folder '{path}'; lay the data out as VOC does.")
    found = set(tf.io.gfile.listdir(path))  # One listing instead of thousands of look-ups.
    missing = [image_id for image_id in data.image_ids if f"{image_id}.{extension}" not in found]
    if missing:
        raise UserError(
            f"'{path}' lacks {len(missing)} of the {len(data.image_ids)} files of '{data.name}' "
            f"(first: {missing[0]}.{extension}); add them, or remove them from the split."
        )


def _read_annotation(data: VOC, image_id: str) -> Annotation:
    path = os.path.join(data.root, "Annotations", f"{image_id}.xml")
    with tf.io.gfile.GFile(path, "rb") as file:
        content = file.read()
    try:
        tree = ElementTree.fromstring(content)
        # VOC 2012 has a few fractional coordinates; others are whole numbers.
        width, height = (int(_number(tree, f"size/{side}")) for side in ("width", "height"))
        entries = [
            (
                _text(entry, "name"),
                # Only the object itself: persons also have parts with their own boxes.
                [_number(entry, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")],
                _number(entry, "difficult") != 0 if entry.find("difficult") is not None else False,
            )
            for entry in tree.findall("object")
        ]
    except (ElementTree.ParseError, ValueError) as error:
        raise UserError(f"'{path}' is not a VOC annotation ({error}); correct the file.") from error
    objects: list[Object] = []
    for class_name, (xmin, ymin, xmax, ymax), difficult in entries:
        if class_name not in data.class_names:
            raise UserError(
                f"'{path}' has an object of the class '{class_name}', which is not one of "
                f"{', '.join(data.class_names)}; correct it, or write the names of your classes to "
                f"'{os.path.join(data.root, 'classes.txt')}'."
            )
        box = (xmin - 1, ymin - 1, xmax, ymax)
        if not (0 <= box[0] < box[2] <= width and 0 <= box[1] < box[3] <= height):
            raise UserError(
                f"'{path}': the box of object {len(objects) + 1} ({class_name}), xmin={xmin:g} "
                f"ymin={ymin:g} xmax={xmax:g} ymax={ymax:g}, is empty or not within the image of "
                f"{width} x {height} pixels, which VOC counts from 1; correct the box."
            )
        objects.append(Object(data.class_names.index(class_name), box, difficult))
    return Annotation(width, height, tuple(objects))


def _text(element: ElementTree.Element, path: str) -> str:
    text = (element.findtext(path) or "").strip()
    if not text:
        raise ValueError(f"<{element.tag}> has no <{path}>")
    return text


def _number(element: ElementTree.Element, path: str) -> float:
    text = _text(element, path)
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"<{path}> of <{element.tag}> is '{text}', not a number")
    return number
