"""CONTRIBUTING.md's examples run as printed; pages name the rooms and recipes that exist."""

import importlib.util
import pathlib
import re
import types

import ml_collections
import numpy as np
import pytest
import tensorflow as tf

from byol_tf import data, encoders
from byol_tf.configs import cifar10_demo
from byol_tf.evaluation.splits import Splits
from byol_tf.images.preprocessing import Preprocessing

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGES = ("byol_tf", "pipelines", "serving")
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()


def example(first_line: str) -> types.ModuleType:
    """The block of CONTRIBUTING.md whose docstring starts so, as a module."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    blocks = re.findall(r"<!-- run -->\n```python\n(.*?)```", text, re.DOTALL)
    (code,) = [block for block in blocks if block.startswith(f'"""{first_line}')]
    module = types.ModuleType("example")
    exec(compile(code, f"CONTRIBUTING.md: {first_line}", "exec"), module.__dict__)
    return module


def test_the_example_of_a_protocol_measures_the_nearest_class_mean(tmp_path):
    module = example("Accuracy of the nearest class mean")
    images = [np.full((8, 8, 3), gray, np.uint8) for gray in (0, 40, 200, 250, 90, 160)]
    for split in ("train", "test"):
        for number, image in enumerate(images[:4] if split == "train" else images[4:]):
            dark = image.mean() < 128
            path = tmp_path / split / ("dark" if dark else "light") / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tf.io.encode_png(image).numpy())
    splits = Splits(str(tmp_path / "train"), str(tmp_path / "test"))
    pixels = encoders.raw_pixels(Preprocessing(8))
    result = module.evaluate(pixels, splits, ml_collections.ConfigDict({"order": 2}))
    assert result.cells() == {"nearest mean top-1, %": "100.0"}


def test_the_example_of_a_source_gives_every_image_and_trains():
    module = example("Images in memory")
    images = np.random.default_rng(0).integers(0, 256, (12, 40, 40, 3), np.uint8)
    labels = np.arange(12) % 3
    source = module.ArraySource(images, labels, ("a", "b", "c"))
    whole = Preprocessing(40, 1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    decoded, read_labels, _ = next(iter(data.evaluation_dataset(source, whole, 12)))
    np.testing.assert_allclose(decoded * 255, images, atol=1e-3)
    np.testing.assert_array_equal(read_labels, labels)

    config = cifar10_demo.get_config("smoke")
    config.batch_size = 4
    batches = list(data.two_view_dataset(source, config).take(6))
    assert batches[0][0][0].shape == (4, 32, 32, 3)
    for epoch in (batches[:3], batches[3:]):
        drawn = np.concatenate([labels.numpy() for _, labels in epoch])
        np.testing.assert_array_equal(np.bincount(drawn), [4, 4, 4])
    resumed = next(iter(data.two_view_dataset(source, config, start_step=4)))
    np.testing.assert_array_equal(resumed[0][0], batches[4][0][0])


@pytest.mark.slow
def test_the_example_of_a_component_is_wired_and_counts(tmp_path):
    pytest.importorskip("tfx")
    module = example("ImageCount")
    from tfx.types import channel, standard_artifacts

    component = module.ImageCount(channel.Channel(type=standard_artifacts.Examples), "train")
    assert component.exec_properties == {"split": "train"}
    assert component.outputs["count"].type is module.Count

    folder = tmp_path / "Split-train"
    folder.mkdir()
    with tf.io.TFRecordWriter(str(folder / "data.gz"), "GZIP") as writer:
        for _ in range(3):
            writer.write(b"an example")
    examples, count = standard_artifacts.Examples(), module.Count()
    examples.uri, examples.split_names, count.uri = str(tmp_path), '["train"]', str(tmp_path)
    module.Executor().Do({"examples": [examples]}, {"count": [count]}, {"split": "train"})
    assert (tmp_path / "count.txt").read_text() == "3"


def test_the_page_of_recipes_has_a_section_for_each():
    configs = {path.stem for path in (ROOT / "byol_tf" / "configs").glob("*.py")}
    page = (ROOT / "docs" / "recipes.md").read_text()
    sections = set(re.findall(r"^## (\w+)$", page, re.MULTILINE))
    assert configs - {"__init__", "defaults"} == sections


def rooms() -> dict[str, int | None]:
    """The rooms of docs/architecture.md and the floor of each in byol_tf."""
    rows = re.findall(r"^\| `([\w/.]+)` \| (?:(\d+) \|)?", ARCHITECTURE, re.MULTILINE)
    return {room: int(floor) if floor else None for room, floor in rows if "/" in room}


def test_the_architecture_names_every_room_and_no_other():
    tree = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).iterdir()
        if (path / "__init__.py").exists() or (path.suffix == ".py" and path.stem != "__init__")
    }
    listed = {room for room in rooms() if room.startswith(PACKAGES)}
    assert listed == tree


@pytest.fixture(scope="module")
def layout() -> types.ModuleType:
    """tests/test_layout.py, which knows what a module imports."""
    spec = importlib.util.spec_from_file_location("layout", ROOT / "tests" / "test_layout.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def imported_rooms(layout: types.ModuleType, room: str) -> set[str]:
    """The rooms that a room's modules import."""
    path = ROOT / room
    files = path.rglob("*.py") if path.is_dir() else [path]
    modules = [layout.module_file(name) for file in files for name in layout.imported_names(file)]
    found = {"/".join(m.relative_to(ROOT).parts[:2]) for m in modules if m}
    return {name for name in found if name in rooms()} - {room}


def test_byol_tf_imports_downwards_only(layout):
    floors = {room: floor for room, floor in rooms().items() if floor is not None}
    assert len(floors) > 10
    for room, floor in floors.items():
        above = {other for other in imported_rooms(layout, room) if floors[other] >= floor}
        assert not above, f"{room} is on floor {floor} and imports {above}"


def test_the_pipeline_and_the_endpoint_do_not_know_each_other(layout):
    for room in rooms():
        if room.startswith("pipelines"):
            assert not [name for name in imported_rooms(layout, room) if name.startswith("serving")]
