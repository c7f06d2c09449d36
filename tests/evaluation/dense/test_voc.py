import re

import numpy as np
import pytest

from byol_tf.errors import UserError
from byol_tf.evaluation.dense.voc import CLASSES, Annotation, Object, open_voc, relevance

# The layout of VOC2007's own files: parts of persons also have names and boxes, the order of fields
# varies, and `difficult` is optional.
PERSON_AND_DOG = """<annotation>
	<folder>VOC2007</folder>
	<filename>000010.jpg</filename>
	<size><width>500</width><height>333</height><depth>3</depth></size>
	<segmented>0</segmented>
	<object>
		<name>person</name>
		<pose>Left</pose>
		<truncated>1</truncated>
		<difficult>1</difficult>
		<bndbox><xmin>1</xmin><ymin>11.5</ymin><xmax>500</xmax><ymax>333</ymax></bndbox>
		<part><name>head</name>
			<bndbox><xmin>100</xmin><ymin>12</ymin><xmax>150</xmax><ymax>90</ymax></bndbox>
		</part>
	</object>
	<object>
		<bndbox><ymax>200</ymax><xmax>80</xmax><ymin>150</ymin><xmin>80</xmin></bndbox>
		<name>dog</name>
	</object>
</annotation>
"""


@pytest.fixture
def root(tmp_path):
    """One image, 000010, in every folder, and in the split trainval of both kinds."""
    for folder, file, text in (
        ("ImageSets/Main", "trainval.txt", "000010\n"),
        ("ImageSets/Main", "dog_trainval.txt", "000010  1\n"),
        ("ImageSets/Segmentation", "trainval.txt", "000010\n"),
        ("JPEGImages", "000010.jpg", ""),
        ("SegmentationClass", "000010.png", ""),
        ("Annotations", "000010.xml", PERSON_AND_DOG),
    ):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / file).write_text(text)
    return tmp_path


def edit(root, old, new):
    path = root / "Annotations" / "000010.xml"
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def test_boxes_count_from_0_and_end_before_their_last_pixel(root):
    annotation = open_voc(f"voc:{root}:trainval", "Main").annotation("000010")
    assert (annotation.width, annotation.height) == (500, 333)
    person, dog = annotation.objects
    assert CLASSES[person.class_index] == "person"
    assert person.box == (0, 10.5, 500, 333)
    assert person.difficult
    # One pixel wide: VOC's bounds are both inclusive.
    assert CLASSES[dog.class_index] == "dog"
    assert dog.box == (79, 149, 80, 200)
    assert not dog.difficult


def test_a_class_is_unclear_where_all_its_objects_are_difficult():
    box = (0.0, 0.0, 5.0, 5.0)
    entries = [Object(0, box, True), Object(1, box, True), Object(1, box, False)]
    for objects in (entries, entries[::-1]):
        annotation = Annotation(10, 10, tuple(objects))
        # 0, 1 and -1 in the devkit's ImageSets/Main/CLASS_SPLIT.txt.
        np.testing.assert_array_equal(relevance(annotation, 3), [-1, 1, 0])


def test_the_classes_are_the_vocs_in_alphabetical_order(root):
    data = open_voc(f"voc:{root}:trainval", "Main")
    assert len(data.class_names) == 20
    assert list(data.class_names) == sorted(data.class_names)
    assert {"aeroplane", "person", "diningtable", "tvmonitor"} <= set(data.class_names)


def test_files_are_found_by_id(root):
    data = open_voc(f"voc:{root}:trainval", "Segmentation")
    assert data.image_ids == ("000010",)
    assert data.image_path("000010") == str(root / "JPEGImages" / "000010.jpg")
    assert data.mask_path("000010") == str(root / "SegmentationClass" / "000010.png")


def test_a_split_keeps_the_order_of_its_file(root):
    ids = ["b", "000010", "a"]
    (root / "ImageSets" / "Main" / "odd.txt").write_text("b\n000010 \r\na\n\n")
    for image_id in ids:
        (root / "JPEGImages" / f"{image_id}.jpg").touch()
        (root / "Annotations" / f"{image_id}.xml").write_text(PERSON_AND_DOG)
    assert list(open_voc(f"voc:{root}:odd", "Main").image_ids) == ids


def test_segmentation_needs_no_annotations_and_main_no_masks(root):
    (root / "SegmentationClass" / "000010.png").unlink()
    open_voc(f"voc:{root}:trainval", "Main")
    with pytest.raises(UserError, match=r"SegmentationClass.* lacks 1 of the 1.*000010\.png"):
        open_voc(f"voc:{root}:trainval", "Segmentation")
    (root / "Annotations" / "000010.xml").unlink()
    with pytest.raises(UserError, match=r"Annotations.* lacks 1 of the 1.*000010\.xml"):
        open_voc(f"voc:{root}:trainval", "Main")


def test_other_classes_come_from_classes_txt(root):
    (root / "classes.txt").write_text("person\ndog\n")
    data = open_voc(f"voc:{root}:trainval", "Main")
    assert data.class_names == ("person", "dog")
    assert [entry.class_index for entry in data.annotation("000010").objects] == [0, 1]


def test_an_unknown_class_is_named_with_its_file(root):
    edit(root, "<name>dog</name>", "<name>wolf</name>")
    with pytest.raises(UserError, match=r"000010\.xml.*'wolf'.*aeroplane.*classes\.txt"):
        open_voc(f"voc:{root}:trainval", "Main")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<xmin>80</xmin>", "<xmin>81</xmin>"),  # Empty.
        ("<ymin>150</ymin>", "<ymin>201</ymin>"),
        ("<xmin>80</xmin>", "<xmin>0</xmin>"),  # Counted from 0.
        ("<ymax>200</ymax>", "<ymax>334</ymax>"),
        ("<xmax>80</xmax>", "<xmax>500.5</xmax>"),
    ],
)
def test_a_box_that_is_empty_or_leaves_the_image_is_named(root, old, new):
    edit(root, old, new)
    side, value = re.fullmatch(r"<(\w+)>(.*)</\w+>", new).groups()
    message = rf"000010\.xml.*object 2 \(dog\).*{side}={value}\b.*500 x 333"
    with pytest.raises(UserError, match=message):
        open_voc(f"voc:{root}:trainval", "Main")


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("</annotation>", "", "000010.xml"),
        ("<size><width>500</width>", "<size>", "no <size/width>"),
        ("<name>dog</name>", "<name> </name>", "<object> has no <name>"),
        ("<xmin>80</xmin>", "", "no <bndbox/xmin>"),
        ("<xmin>80</xmin>", "<xmin>left</xmin>", "'left', not a number"),
        ("<xmin>80</xmin>", "<xmin>nan</xmin>", "'nan', not a number"),
    ],
)
def test_a_malformed_annotation_is_named(root, old, new, complaint):
    edit(root, old, new)
    with pytest.raises(UserError, match=re.escape(complaint)) as error:
        open_voc(f"voc:{root}:trainval", "Main")
    assert "000010.xml" in str(error.value)


@pytest.mark.parametrize(
    "name", ["voc:trainval", "voc:a/b", "a:trainval", "voc::trainval", "voc:a:"]
)
def test_a_name_of_another_form_is_refused(name):
    with pytest.raises(UserError, match="voc:ROOT:SPLIT"):
        open_voc(name, "Main")


def test_a_missing_root_or_split_is_named_and_the_splits_listed(root):
    with pytest.raises(UserError, match="nowhere' of 'voc:.*does not exist"):
        open_voc(f"voc:{root}/nowhere:trainval", "Main")
    with pytest.raises(UserError, match=r"test\.txt.*\['trainval'\]"):
        open_voc(f"voc:{root}:test", "Main")


@pytest.mark.parametrize(("text", "complaint"), [("\n", "empty"), ("000010\n000010\n", "twice")])
def test_a_split_that_is_empty_or_repeats_an_image_is_refused(root, text, complaint):
    (root / "ImageSets" / "Main" / "trainval.txt").write_text(text)
    with pytest.raises(UserError, match=complaint):
        open_voc(f"voc:{root}:trainval", "Main")
