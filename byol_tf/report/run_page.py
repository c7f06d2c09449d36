"""The page of a run of byol-pretrain: what it is made from, and `render`, which makes it."""

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from byol_tf.report import charts, gallery, page
from byol_tf.report.classes import ClassSlice, by_class

_TEMPLATE = pathlib.Path(__file__).with_name("run.html")
_MAP_IMAGES = 600


@dataclasses.dataclass(frozen=True)
class Images:
    """What the run's encoder makes of test images, and of training images beside them.

    Attributes:
        test: test images, evenly spaced where there are many.
        train: likewise training images, among which neighbours are looked for.
        num_test, num_train: how many there are of each.
        overall, classes: kNN accuracy on `test`, of all and by class; None and empty where there
            are no labels to measure it with.
        k: neighbours that voted.
        unlabelled: why there are no labels, as a sentence; empty where there are.
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
    """One run. What is left at its default is said to be missing on the page.

    Attributes:
        path: of the run's folder.
        config: of its config.json, with `examples` and `classes` of the data.
        history: a row an epoch, as `charts.measurements` gives it.
        evaluations: records of byol-evaluate by the names of their files.
        checkpoint: what the encoder was restored from.
        images: embedded by it.
        no_images: why there are none, as a sentence.
        made: date, commit, versions and hardware of this page: `results.environment`.
    """

    path: str
    config: Mapping[str, Any]
    history: Sequence[Mapping[str, float]] = ()
    evaluations: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    checkpoint: str | None = None
    images: Images | None = None
    no_images: str = ""
    made: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class _Table:
    """Results of one record; `rows` are (encoder, its cells), `notes` how they came about."""

    file: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str]]]
    command: str
    notes: str


def render(run: Run) -> str:
    """The page as one HTML document that refers to nothing outside itself."""
    method = run.config.get("method", "byol")  # Runs from before there was another say none.
    images = run.images
    return page.render(
        _TEMPLATE,
        run=run,
        name=os.path.basename(os.path.abspath(run.path)),
        method=method,
        last=run.history[-1] if run.history else {},
        tables=[_table(file, record) for file, record in run.evaluations.items()],
        curves=charts.learning_curves(run.history, method) if run.history else (),
        classes=by_class(images.overall, images.classes) if images else None,
        by_class_note=_by_class_note(images) if images else "",
        neighbours=gallery.neighbour_rows(images.test, images.train) if images else (),
        near=f"eight among {_some(images.train, images.num_train, 'training')}" if images else "",
        map=_map(images) if images else None,
        facts=list(_facts(run, method)),
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


def _map(images: Images) -> charts.Chart:
    """Of some test images: enough to see groups, few enough to see points."""
    taken = gallery.evenly(np.arange(len(images.test.keys)), _MAP_IMAGES)
    some = dataclasses.replace(
        images.test,
        embeddings=images.test.embeddings[taken],
        images=(),
        keys=[images.test.keys[i] for i in taken],
        labels=None if images.test.labels is None else images.test.labels[taken],
    )
    return charts.embedding_map(some, _some(some, images.num_test, "test"))


def _some(images: gallery.Gallery, total: int, role: str) -> str:
    """Such as "600 of the 10,000 test images (evenly spaced)", or "600 test images" if all."""
    count = len(images.keys)
    if count == total:
        return f"{count:,} {role} images"
    return f"{count:,} of the {total:,} {role} images (evenly spaced)"


def _facts(run: Run, method: str) -> Iterator[tuple[str, str]]:
    """(what, value) of the training and of the page, as far as they are known."""
    config = dict(page.flat(run.config))
    fields = {
        "encoder": ("encoder.depth", "encoder.width", "encoder.stem"),
        "training": ("method", "epochs", "batch_size", "image_size", "precision", "seed"),
        "optimizer": ("optimizer.name", "optimizer.base_lr", "optimizer.warmup_epochs"),
        "heads": ("projection_size", "hidden_size"),
        "loss": ("temperature",) if method == "simclr" else (),
        "target network": ("base_ema",) if method == "byol" else (),
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
    """Lines of what `results.environment` gives."""
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
