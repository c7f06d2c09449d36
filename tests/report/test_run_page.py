import dataclasses
import re

import galleries
import numpy as np
import pytest
from parsed_page import Page

from byol_tf.report import gallery, run_page
from byol_tf.report.classes import ClassSlice
from byol_tf.report.run_page import Images, Run

HOSTILE = "<b>alert('x')</b>\"&"
CONFIG = {
    "encoder": {"depth": 18, "width": 0.25, "stem": "small"},
    "epochs": 3, "batch_size": 128, "image_size": 32, "base_ema": 0.98, "temperature": 0.1,
    "examples": 2500, "classes": ["cat", "dog"],
}  # fmt: skip
RECORD = {
    "command": "byol-evaluate --run_dir=runs/photos --test_dir=test",
    "model": "runs/photos/checkpoints/ckpt-57",
    "train": {"source": "photos/train", "examples": 2500},
    "test": {"source": "photos/test"},
    "date": "2026-11-23T23:09:38+00:00",
    "commit": "5d994fb",
    "hardware": {"cpu": "AMD EPYC", "cpus": 2, "gpus": []},
    "rows": [
        {"encoder": "BYOL", "cells": {"kNN top-1, %": "47.2", "linear top-1, %": "52.2 [51, 53]"}},
        {"encoder": "raw pixels", "cells": {"kNN top-1, %": "42.3", "AP": "7.5"}},
    ],
}


def history(**changes):
    return [
        {
            "epoch": epoch, "step": 19 * epoch, "loss": 2 / epoch, "lr": 0.1, "ema": 0.99,
            "projection_std": 0.8, "effective_rank": 20.0 + epoch, "knn_accuracy": 0.1 * epoch,
        }
        | changes
        for epoch in (1, 2, 3)
    ]  # fmt: skip


def cells(document):
    """Returns the texts of each row of the first table."""
    rows = re.findall(r"<tr.*?</tr>", document.split("</table>")[0], re.DOTALL)
    return [re.findall(r"<t[hd][^>]*>([^<]*)<", row) for row in rows]


@pytest.fixture(scope="module")
def images(images_dir) -> Images:
    all_30 = galleries.of_pixels(images_dir)
    few = dataclasses.replace(  # Too few for t-SNE, which takes seconds.
        all_30, embeddings=all_30.embeddings[:28], keys=all_30.keys[:28], labels=all_30.labels[:28]
    )
    return Images(
        test=few,
        train=all_30,
        num_test=28,
        num_train=60,
        overall=ClassSlice("", 0.5, 0.4, 0.6, 28),
        classes=[ClassSlice("dog", 0.7, 0.65, 0.8, 20), ClassSlice("overall", 0.1, 0.0, 0.3, 10)],
        k=12,
    )


@pytest.fixture(scope="module")
def full(images) -> Run:
    return Run(
        "runs/photos/",
        CONFIG,
        history(),
        {"evaluation.json": RECORD},
        "runs/photos/checkpoints/ckpt-57",
        images,
        made={"date": "2026-11-24", "commit": "abc123", "versions": {"keras": "2.15.0"}},
        method="BYOL",
        method_fields=("base_ema",),
        loss_caption="Squared distance.",
    )


@pytest.fixture(scope="module")
def document(full) -> str:
    return run_page.render(full)


def test_a_full_page_is_well_formed_and_stands_alone(document):
    page = Page(document)
    links = page.values("src") + page.values("href") + page.values("xlink:href")
    assert all(link.startswith(("#", "data:image/")) for link in links)
    # Scripts may name addresses, but the browser lets the page load nothing.
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', document)
    assert policy.startswith("default-src 'none'; img-src data:;") and "http" not in policy
    assert not re.search(r"@import|url\((?!#)", re.sub(r"(?s)<script>.*?</script>", "", document))
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)


def test_a_full_page_says_what_there_is_and_not_what_is_missing(document):
    text = re.sub(r"\s", "", Page(document).text)
    for expected in (
        "BYOL photos Run of byol-pretrain in runs/photos/", "kNN top-1, % 47.2 BYOL",
        "Epochs 3 of 3; 57 steps", "Training images 2,500 of 2 classes", "last 23", "last 30.0 %",
        "1 = even", "encoder depth 18, width 0.25, stem small", "BYOL base_ema 0.98",
        "checkpoint runs/photos/checkpoints/ckpt-57", "keras 2.15.0", "abc123",
        "kNN top-1, 12 neighbours: 28 test images, classified by 30 of the 60 training images "
        "(evenly spaced).",
        "eight among 30 of the 60 training images (evenly spaced) with the",
        "28 test images, placed by PCA", "of the 40 neighbours shown", "encoder.width 0.25",
    ):  # fmt: skip
        assert re.sub(r"\s", "", expected) in text, expected
    for phrase in ("There is no", "need images", "Not evaluated", "No history", "temperature0.1,"):
        assert re.sub(r"\s", "", phrase) not in text, phrase


def test_results_stand_in_a_table_with_their_command_and_commit(document):
    assert cells(document) == [
        ["Encoder", "kNN top-1, %", "linear top-1, %", "AP"],
        ["BYOL", "47.2", "52.2 [51, 53]", "–"],
        ["raw pixels", "42.3", "–", "7.5"],
    ]
    text = Page(document).text
    assert RECORD["command"] in text
    assert (
        "training: photos/train (2,500 images); test: photos/test; commit: 5d994fb; hardware: "
        "2 × AMD EPYC; runs/photos/checkpoints/ckpt-57; 2026-11-23." in text
    )


def test_each_record_has_a_table_under_its_name(full, document):
    assert "evaluation.json" not in document, "the only one needs no name"
    old = RECORD | {"rows": [{"encoder": "BYOL", "knn": {"top_1": 0.4}}], "command": "old one"}
    files = {"evaluation.json": RECORD, "evaluation-coco.json": RECORD, "evaluation-old.json": old}
    text = Page(run_page.render(dataclasses.replace(full, evaluations=files, images=None))).text
    assert text.count("raw pixels") == 2
    assert "evaluation-coco.json" in text and "evaluation-old.json has no table" in text
    assert "old one" in text


def test_classes_come_worst_first_whatever_they_are_called(document):
    section = document[document.index('<section id="classes">') :]
    names = re.findall(r'<th scope="row" class="name">([^<]+)</th>', section)
    assert names[:3] == ["all classes", "overall", "dog"]


def test_a_page_without_images_says_how_to_get_them(full):
    sentence = "the run has no checkpoint yet."
    run = dataclasses.replace(full, images=None, checkpoint=None, no_images=sentence)
    page = Page(run_page.render(run))
    assert "from evaluation.json or from --train_dir and --test_dir" in page.text
    assert sentence in page.text
    assert {"classes", "neighbours", "map"}.isdisjoint(page.values("id"))
    assert {"#classes", "#neighbours", "#map"}.isdisjoint(page.values("href"))


def test_without_labels_there_are_neighbours_and_a_map_but_no_classes(full, images):
    unlabelled = dataclasses.replace(images.test, labels=None, class_names=None)
    images = Images(unlabelled, unlabelled, 30, 30, unlabelled="Without labels nothing.")
    document = run_page.render(dataclasses.replace(full, images=images))
    text = Page(document).text
    assert "Without labels nothing." in text and "the class of their query" not in text
    assert "Without labels all points look alike" in text and "Judge for yourself" in text
    assert 'class="tile"' in document and 'class="tile same"' not in document


def test_a_run_that_has_only_begun_is_a_page_too():
    text = Page(run_page.render(Run("runs/new", {"examples": 10, "epochs": 5}))).text
    for sentence in (
        "Not evaluated yet", "byol-evaluate --run_dir=runs/new --train_dir=…", "No history:",
        "Epochs 0 of 5; 0 steps", "10 without labels",
    ):  # fmt: skip
        assert sentence in text, sentence


def test_another_method_has_its_own_name_loss_and_fields(full):
    rows = [{k: v for k, v in row.items() if k != "ema"} for row in history()]
    method = {
        "method": "SimCLR",
        "method_fields": ("temperature",),
        "loss_caption": "NT-Xent: low.",
    }
    run = dataclasses.replace(full, history=rows, images=None, **method)
    text = Page(run_page.render(run)).text
    assert "τ" not in text and "NT-Xent: low." in text
    assert "SimCLR temperature 0.1" in text and " photos: SimCLR SimCLR photos" in text


def test_a_measure_that_is_not_finite_is_a_dash_and_a_sentence(full):
    rows = history(effective_rank=float("nan"))
    text = Page(run_page.render(dataclasses.replace(full, history=rows, images=None))).text
    assert "Rank in training – dimensions in use by training images" in text
    assert "Not finite in 3 epochs, first in epoch 1." in text


def test_names_from_the_data_are_escaped(full, images):
    named = dataclasses.replace(images.test, keys=[HOSTILE] * 28, class_names=[HOSTILE] * 5)
    hostile = dataclasses.replace(
        full,
        path=f"runs/{HOSTILE.replace('/', '')}",
        config=CONFIG | {"method": HOSTILE, "classes": [HOSTILE]},
        method=HOSTILE,
        loss_caption=HOSTILE,
        evaluations={
            HOSTILE: RECORD | {"rows": [{"encoder": HOSTILE, "cells": {HOSTILE: HOSTILE}}]},
            "evaluation.json": RECORD | {"command": HOSTILE, "train": {"source": HOSTILE}},
        },
        images=dataclasses.replace(
            images, test=named, train=named, classes=[ClassSlice(HOSTILE, 0.5, 0.4, 0.6, 9)]
        ),
        no_images=HOSTILE,
        made={"commit": HOSTILE},
    )
    document = run_page.render(hostile)
    page = Page(document)
    assert "<b>alert" not in document
    assert HOSTILE in page.values("alt") and HOSTILE in page.values("title")
    assert page.text.count(HOSTILE) >= 15


def test_a_map_of_many_test_images_takes_some_evenly(full, images, monkeypatch):
    n = 1500
    seen = []

    def in_a_row(some):
        seen.extend(some.keys)
        return np.arange(1000), np.stack([np.arange(1000.0)] * 2, axis=1)

    monkeypatch.setattr(gallery, "map_points", in_a_row)
    many = gallery.Gallery(
        np.ones((n, 4)), [images.test.images[0]] * n, [str(i) for i in range(n)],
        np.arange(n) * 5 // n, images.test.class_names,
    )  # fmt: skip
    embedded = dataclasses.replace(images, test=many, train=many, num_test=9000)
    text = Page(run_page.render(dataclasses.replace(full, images=embedded))).text
    assert "1,000 of the 9,000 test images (evenly spaced), placed by t-SNE" in text
    assert "1,500 of the 9,000 test images (evenly spaced), classified by" in text
    assert len(seen) == 1000 and set(np.diff([int(key) for key in seen])) == {1, 2}


def test_the_same_run_makes_the_same_page(full, document):
    assert run_page.render(full) == document
