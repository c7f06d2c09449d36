"""The page of a run of byol-pretrain: its content, and `render`, which makes it."""

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from byol_tf.report import charts, gallery, page
from byol_tf.report.classes import ClassSlice, by_class
from byol_tf.report.embedding_map import EmbeddingMap, embedding_map

_TEMPLATE = pathlib.Path(__file__).with_name("run.html")


@dataclasses.dataclass(frozen=True)
class Images:
    """Test and training images, embedded by the run's encoder.

    Attributes:
        test: Test images, evenly spaced if there are many.
        train: Training images to find neighbours among, evenly spaced if there are many.
        num_test, num_train: Numbers of all test and training images.
        overall, classes: kNN accuracy on `test`, overall and by class; None and empty without
            labels.
        k: Number of neighbours that voted.
        unlabelled: Sentence on why there are no labels; empty if there are.
    """

    test: gallery.Gallery
    train: gallery.Gallery
    num_test: int
    num_train: int
    overall: ClassSlice | None = None
    classes: Sequence[ClassSlice] = ()
    k: int = 0
    unlabelled: str = ""


@dataclasses.dataclass(frozen=True)
class Run:
    """One run. The page reports a field left at its default as missing.

    Attributes:
        path: Path of the run's folder.
        config: Content of its config.json, with `examples` and `classes` of the data.
        history: One row per epoch, as `charts.measurements` gives it.
        evaluations: Records of byol-evaluate by file name.
        checkpoint: Checkpoint that the encoder was restored from.
        images: Images embedded by it.
        no_images: Sentence on why there are no images.
        made: Date, commit, versions and hardware of this page, from `results.environment`.
        method: Display name of the method.
        method_fields: Config fields that only the method reads.
        loss_caption: Explanation of the method's loss; empty if unknown.
    """

    path: str
    config: Mapping[str, Any]
    history: Sequence[Mapping[str, float]] = ()
    evaluations: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    checkpoint: str | None = None
    images: Images | None = None
    no_images: str = ""
    made: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    method: str = ""
    method_fields: Sequence[str] = ()
    loss_caption: str = ""


@dataclasses.dataclass(frozen=True)
class _Table:
    """Results of one record; `rows` are (encoder, its cells), `notes` their setting."""

    file: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str]]]
    command: str
    notes: str


def render(run: Run) -> str:
    """Returns the page as one self-contained HTML document."""
    images = run.images
    return page.render(
        _TEMPLATE,
        run=run,
        name=os.path.basename(os.path.abspath(run.path)),
        last=run.history[-1] if run.history else {},
        tables=[_table(file, record) for file, record in run.evaluations.items()],
        curves=charts.learning_curves(run.history, run.loss_caption) if run.history else (),
        classes=by_class(images.overall, images.classes) if images else None,
        by_class_note=_by_class_note(images) if images else "",
        neighbours=gallery.neighbour_rows(images.test, images.train) if images else (),
        near=f"eight among {_some(images.train, images.num_train, 'training')}" if images else "",
        map=_map(images) if images else None,
        facts=list(_facts(run)),
        config=list(page.flat(run.config)),
    )


def _table(file: str, record: Mapping[str, Any]) -> _Table:
    rows = {row["encoder"]: row.get("cells", {}) for row in record["rows"]}
    columns = list(dict.fromkeys(column for cells in rows.values() for column in cells))
    notes = [
        f"{what}: {split['source']}"
        + (f" ({split['examples']:,} images)" if "examples" in split else "")
        for what, split in (("training", record["train"]), ("test", record["test"]))
    ]
    notes += [
        f"{what}: {value}" for what, value in _environment(record) if what in ("commit", "hardware")
    ]
    return _Table(
        file,
        columns,
        [(name, [cells.get(column, "–") for column in columns]) for name, cells in rows.items()],
        record["command"],
        "; ".join([*notes, record["model"], record["date"][:10]]) + ".",
    )


def _by_class_note(images: Images) -> str:
    return (
        f"kNN top-1, {images.k} neighbours: {_some(images.test, images.num_test, 'test')}, "
        f"classified by {_some(images.train, images.num_train, 'training')}."
    )


def _map(images: Images) -> EmbeddingMap:
    """Returns a map of the test images that it takes."""
    taken = gallery.mapped(len(images.test.keys))
    some = dataclasses.replace(
        images.test,
        embeddings=images.test.embeddings[taken],
        images=[images.test.images[i] for i in taken.tolist()],
        keys=[images.test.keys[i] for i in taken],
        labels=None if images.test.labels is None else images.test.labels[taken],
    )
    return embedding_map(some, _some(some, images.num_test, "test"))


def _some(images: gallery.Gallery, total: int, role: str) -> str:
    """Returns "600 of the 10,000 test images (evenly spaced)", or "600 test images" if all."""
    count = len(images.keys)
    if count == total:
        return f"{count:,} {role} images"
    return f"{count:,} of the {total:,} {role} images (evenly spaced)"


def _facts(run: Run) -> Iterator[tuple[str, str]]:
    """Yields (what, value) about the training and the page, as far as known."""
    config = dict(page.flat(run.config))
    fields: dict[str, Sequence[str]] = {
        "encoder": sorted(
            (name for name in config if name.startswith("encoder.")),
            key=lambda name: name != "encoder.name",
        ),
        "training": ("epochs", "batch_size", "image_size", "precision", "seed"),
        "multi-crop": ("augment.small_crops", "augment.small_crop_size")
        if config.get("augment.small_crops")
        else (),
        "optimizer": ("optimizer.name", "optimizer.base_lr", "optimizer.warmup_epochs"),
        run.method: run.method_fields,
    }
    for what, names in fields.items():
        values = [f"{n.rpartition('.')[2]} {config[n]}" for n in names if n in config]
        if values:
            yield what, ", ".join(values)
    if run.checkpoint:
        yield "checkpoint", run.checkpoint
    for what, value in _environment(run.made):
        yield f"page: {what}", value


def _environment(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns the entries of `results.environment` as (what, value) lines."""
    hardware = about.get("hardware")
    if hardware:
        hardware = ", ".join(hardware["gpus"]) or f"{hardware['cpus']} × {hardware['cpu']}"
    pairs = {
        "date": about.get("date"),
        "commit": about.get("commit"),
        "versions": ", ".join(f"{k} {v}" for k, v in about.get("versions", {}).items()),
        "hardware": hardware,
    }
    return [(what, value) for what, value in pairs.items() if value]
