import json

import numpy as np
import pytest
from PIL import Image

from byol_tf.errors import UserError
from byol_tf.evaluation.dense.boxes import check_images, open_boxes

VOC_XML = """<annotation>
  <size><width>20</width><height>10</height><depth>3</depth></size>
  <object><name>dog</name><difficult>1</difficult>
    <bndbox><xmin>1</xmin><ymin>3</ymin><xmax>4</xmax><ymax>10</ymax></bndbox></object>
  <object><name>cat</name><difficult>0</difficult>
    <bndbox><xmin>5</xmin><ymin>5</ymin><xmax>5</xmax><ymax>6</ymax></bndbox></object>
</annotation>"""


@pytest.fixture
def coco(tmp_path):
    """A COCO tree of two images, 20 x 10 and 8 x 8 pixels, and the content of its file."""
    images = tmp_path / "images"
    (images / "more").mkdir(parents=True)
    Image.new("RGB", (20, 10)).save(images / "a.jpg")
    Image.new("RGB", (8, 8)).save(images / "more" / "b.png")
    annotations = [
        {"id": 5, "image_id": 70, "category_id": 9, "bbox": [2, 1, 3.5, 4], "iscrowd": 0},
        {"id": 6, "image_id": 70, "category_id": 4, "bbox": [0, 0, 20, 10], "iscrowd": 1},
        {"id": 8, "image_id": 70, "category_id": 4, "bbox": [10.01, 0, 10, 5]},
    ]
    content = {
        "images": [
            {"id": 70, "file_name": "a.jpg", "width": 20, "height": 10},
            {"id": 3, "file_name": "more/b.png", "width": 8, "height": 8},
        ],
        "categories": [{"id": 9, "name": "dog"}, {"id": 4, "name": "cat"}],
        "annotations": annotations,
    }
    return tmp_path, content


def opened(coco):
    root, content = coco
    text = content if isinstance(content, str) else json.dumps(content)
    (root / "boxes.json").write_text(text)
    return open_boxes(f"coco:{root}/images:{root}/boxes.json")


def test_coco_boxes_have_corners_and_classes_in_the_order_of_their_ids(coco):
    data = opened(coco)
    assert (data.class_names, data.category_ids) == (("cat", "dog"), (4, 9))
    first, second = data.images
    assert (first.image_id, first.width, first.height) == (70, 20, 10)
    np.testing.assert_allclose(first.boxes[:2], [[2, 1, 5.5, 5], [0, 0, 20, 10]])
    assert first.classes.tolist() == [1, 0, 0]
    assert first.crowd.tolist() == [False, True, False]
    assert not first.difficult.any()
    assert second.path.endswith("images/more/b.png")
    assert second.boxes.shape == (0, 4), "an image without objects is kept"


def test_rounded_coco_boxes_are_cut_to_the_image(coco):
    np.testing.assert_allclose(opened(coco).images[0].boxes[2], [10.01, 0, 20, 5])


def test_voc_boxes_are_those_of_the_annotation(tmp_path):
    for folder, file, text in (
        ("ImageSets/Main", "test.txt", "x1\n"),
        ("Annotations", "x1.xml", VOC_XML),
        ("JPEGImages", "x1.jpg", ""),
    ):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / file).write_text(text)
    data = open_boxes(f"voc:{tmp_path}:test")
    (image,) = data.images
    assert (image.image_id, image.width, image.height) == ("x1", 20, 10)
    assert image.boxes.tolist() == [[0, 2, 4, 10], [4, 4, 5, 6]]
    assert [data.class_names[index] for index in image.classes] == ["dog", "cat"]
    assert image.difficult.tolist() == [True, False]
    assert not image.crowd.any()
    assert (data.class_names[0], data.category_ids[0], data.category_ids[-1]) == (
        "aeroplane",
        1,
        20,
    )


@pytest.mark.parametrize(
    "box",
    [
        [2, 1, 3, -4],
        [-2, 1, 5, 4],
        [2, 1, 3, 11],
        [30, 1, 3, 4],
        [20, 1, 1, 4],  # Within the slack, but outside the image.
        [2, 1, float("nan"), 4],
        [2, 1, 3],
        None,
    ],
)
def test_a_box_that_is_empty_or_leaves_its_image_is_named(coco, box):
    coco[1]["annotations"][0]["bbox"] = box
    with pytest.raises(UserError, match=r"boxes\.json.*annotation 5 .*'a\.jpg' of 20 x 10 pixels"):
        opened(coco)


def test_a_coco_box_without_area_is_left_out_as_train2017_has_two(coco):
    whole = sum(len(image.boxes) for image in opened(coco).images)
    coco[1]["annotations"][0]["bbox"] = [2, 1, 0, 4]
    assert sum(len(image.boxes) for image in opened(coco).images) == whole - 1


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (lambda content: content.pop("categories"), "no images or no categories"),
        (lambda content: content["images"].clear(), "no images or no categories"),
        (lambda content: content.pop("images"), "KeyError"),
        (lambda content: content["annotations"][0].pop("image_id"), "'image_id'"),
        (lambda content: content["annotations"][0].pop("bbox"), "has no 'bbox'"),
        (lambda content: content["images"][0].pop("width"), "has no 'width'"),
        (lambda content: content["images"][0].update(width="20"), "a.jpg' has the width '20'"),
        (lambda content: content["images"][0].update(height=0), "the height 0; give whole"),
        (lambda content: content["images"][1].update(id=70), "two images the same id"),
        (lambda content: content["categories"][0].update(name="cat"), "two categories"),
        (lambda content: content["annotations"][0].update(image_id=1), "image 1, .* not list"),
        (
            lambda content: content["annotations"][0].update(category_id=1),
            "category 1, .* not list",
        ),
        (
            lambda content: content["images"][1].update(file_name="c.png"),
            r"images/c\.png', .*exist",
        ),
        (lambda content: content["images"][1].update(file_name="no/c.png"), r"no/c\.png', .*exist"),
    ],
)
def test_a_malformed_coco_file_is_refused(coco, edit, complaint):
    edit(coco[1])
    with pytest.raises(UserError, match=rf"boxes\.json.*{complaint}"):
        opened(coco)


@pytest.mark.parametrize("text", ["", "[]", "{", "[1, 2]", "\x00"])
def test_a_file_that_is_no_coco_annotation_is_refused(coco, text):
    with pytest.raises(UserError, match=r"boxes\.json' is not a COCO annotation file"):
        opened((coco[0], text))


def test_a_name_of_another_form_and_missing_files_are_refused(coco):
    root, _ = coco
    for name in ("photos/train", "coco:images", "coco::x.json", "tfds:coco"):
        with pytest.raises(UserError, match="voc:ROOT:SPLIT or coco:IMAGES:ANNOTATIONS.json"):
            open_boxes(name)
    with pytest.raises(UserError, match="the folder 'nowhere'"):
        open_boxes(f"coco:nowhere:{root}/boxes.json")
    with pytest.raises(UserError, match=r"the file '.*no\.json'"):
        open_boxes(f"coco:{root}/images:{root}/no.json")
    # A bucket, whose address also contains a colon.
    with pytest.raises(UserError, match="the file 'file:///no.json'"):
        open_boxes(f"coco:file://{root}/images:file:///no.json")


def test_images_are_decoded_before_training(coco):
    data = opened(coco)
    check_images(data)
    coco[1]["images"][1]["width"] = 9
    with pytest.raises(UserError, match=r"b\.png' has 8 x 8 .* says 9 x 8"):
        check_images(opened(coco))


def test_a_truncated_image_is_named(coco):
    root, _ = coco
    path = root / "images" / "more" / "b.png"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"more/b\.png' of .* is not a complete image"):
        check_images(opened(coco))
