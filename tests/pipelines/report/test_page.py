import dataclasses
import re
import subprocess
import sys

import galleries
import numpy as np
import pytest
from parsed_page import Page

from byol_tf.report.classes import ClassSlice
from byol_tf.report.gallery import Gallery
from pipelines.report import page
from pipelines.report.summary import Gate, RunSummary, SplitStatistics, Timing

EMPTY = RunSummary(
    "photos", "run-1", "2026-11-24T00:43:20+00:00", 192.0, "rejected", labelled=False
)
HOSTILE = "<script>alert('x')</script>\"&"


@pytest.fixture(scope="module")
def images(images_dir) -> Gallery:
    return galleries.of_pixels(images_dir)


def history(epochs: int) -> list[dict[str, float]]:
    """As the trainer writes it: kNN only every second epoch."""
    return [
        {
            "epoch": epoch, "step": 10 * epoch, "loss": 2 / epoch, "lr": 0.1, "ema": 0.99,
            "projection_std": 0.8, "effective_rank": 20.0 + epoch, "online_accuracy": 0.2,
        }
        | ({"knn_accuracy": 0.1 * epoch} if epoch % 2 == 0 else {})
        for epoch in range(1, epochs + 1)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def full(images) -> RunSummary:
    return dataclasses.replace(
        EMPTY,
        outcome="pushed",
        labelled=True,
        labels="folders",
        accuracy_decides=True,
        version="1732412345",
        serving_path="/serving/photos",
        model={"architecture": "ResNet-18", "parameters": 11_173_962, "versions": {"keras": "2"}},
        config={"encoder": {"depth": 18}, "seed": 0},
        history=history(4),
        accuracy=[
            {
                "encoder": "BYOL",
                "linear": {"top_1": 0.5223, "top_5": 0.94, "interval": (0.5125, 0.5321)},
                "knn": {"top_1": 0.4725, "k": 200},
            },
            {"encoder": "raw pixels", "linear": None, "knn": {"top_1": 0.42, "k": 200}},
        ],
        slices=[
            ClassSlice("overall", 0.5, 0.45, 0.55, 300),
            ClassSlice("bird", 0.7, 0.6, 0.8, 100),
            ClassSlice("cat", 0.3, 0.2, 0.4, 100),
            ClassSlice("dog", 0.5, 0.4, 0.6, 100),
        ],
        gates=[Gate("accuracy", 0.5223, 0.1, 0.51, True, "Top-1.", fraction=True)],
        splits=[SplitStatistics("train", 9, {"jpeg": 9}, {"cat": 5, "dog": 4}, (8, 32, 64))],
        corrupt=[("cat/1.jpg", "not a JPEG")],
        corrupt_total=3,
        not_read=["12 files of other kinds not read: 8 .cr2, 4 .mov."],
        anomalies=["image/format: png is new."],
        baseline_statistics="run-0",
        timings=[Timing("Trainer", "ran", 90), Timing("Pusher", "failed", 10)],
        lineage=[("commit", "5d994fb")],
        gallery=images,
    )


def test_a_full_page_is_well_formed_and_stands_alone(full):
    document = page.render(full)
    parsed = Page(document)
    links = parsed.values("src") + parsed.values("href") + parsed.values("xlink:href")
    assert all(link.startswith(("#", "data:image/")) for link in links)
    shown = re.sub(r"(?s)<script>.*?</script>", "", document)
    assert not re.search(r"@import|url\((?!#)", shown)
    ids = parsed.values("id")
    assert len(ids) == len(set(ids))
    targets = {link[1:] for link in links if link.startswith("#")}
    targets |= set(re.findall(r"url\(#([^)]+)\)", shown))
    assert targets <= set(ids)


def test_a_full_page_says_what_there_is_and_not_what_is_missing(full):
    text = Page(page.render(full)).text.replace("\N{NARROW NO-BREAK SPACE}", " ")
    for expected in (
        "Pushed", "version 1732412345 to /serving/photos", "52.2 %", "51.2 % to 53.2 %",
        "11.2 M parameters", "3 min 12 s", "at least 10.0 %", "✓ passed", "encoder.depth 18",
        "cat/1.jpg not a JPEG", "And 2 more", "png is new", "against run-0", "90.0 %", "5d994fb",
        "8 .cr2, 4 .mov", "32 (8 to 64)", "last 24", "kNN 40.0 %", "24 November 2026, 00:43 UTC",
    ):  # fmt: skip
        assert re.sub(r"\s", "", expected) in re.sub(r"\s", "", text), expected
    missing = (
        "label-free measures decide",
        "There is no",
        "Not measured",
        "No model",
        "No history",
        "No corrupt",
        "recorded",
    )
    assert not [phrase for phrase in missing if phrase in text]


def test_what_is_missing_is_said_in_a_sentence():
    text = Page(page.render(EMPTY)).text
    for sentence in (
        "The model did not pass and was not pushed.", "No model came out of this run.",
        "This data has no labels by which accuracy could be measured",
        "No gate was evaluated in this run.", "No history: the training did not run",
        "No images were embedded", "no statistics of the data",
        "No corrupt file was recorded.", "None was recorded.", "Drift was not measured",
        "No component's time was recorded.", "No lineage was recorded.",
        "No configuration was recorded.",
    ):  # fmt: skip
        assert sentence in text, sentence


def test_only_a_model_that_is_served_stays():
    served = dataclasses.replace(EMPTY, serving_path="/serving/byol/1")
    texts = [Page(page.render(run)).text for run in (EMPTY, served)]
    assert ["served model stays" in text for text in texts] == [False, True]


def test_unlabelled_data_has_no_empty_cards():
    parsed = Page(page.render(EMPTY))
    assert {"accuracy", "classes"}.isdisjoint(parsed.values("id"))
    assert {"#accuracy", "#classes"}.isdisjoint(parsed.values("href"))
    assert "Labels" not in parsed.text


@pytest.mark.parametrize(
    ("labels", "labelled", "said"),
    [
        ("auto", True, "The subfolders were taken as classes for this report only"),
        ("none", False, "Labels were ignored, as --labels=none asks"),
        ("auto", False, "This data has no labels by which accuracy could be measured"),
    ],
)
def test_without_a_gate_on_accuracy_the_page_says_what_became_of_labels(labels, labelled, said):
    run = dataclasses.replace(EMPTY, labels=labels, labelled=labelled)
    text = " ".join(Page(page.render(run)).text.split())
    assert said in text and "label-free measures decide" in text
    assert ("with --labels=folders" in text) == labelled
    assert ("This data has no labels" in text) == (labels == "auto" and not labelled)


def test_figures_of_training_have_other_names_than_the_gates():
    """They are of other vectors: docs/evaluation.md lists all four."""
    gates = [
        Gate("representation std", 0.5, 0.1, None, True, "Of eval images."),
        Gate("representation rank", 40, 2, None, True, "Of eval images."),
    ]
    rows = [history(1)[0]]
    text = Page(page.render(dataclasses.replace(EMPTY, history=rows, gates=gates))).text
    assert "Projection std" in text and "Rank in training" in text
    assert "Spread" not in text and "Effective rank" not in text


def test_labelled_data_without_a_measurement_is_not_called_unlabelled():
    text = Page(page.render(dataclasses.replace(EMPTY, labelled=True))).text
    assert "but this run measured no accuracy." in text
    why = "the training set has one class; linear evaluation needs at least two."
    run = dataclasses.replace(EMPTY, labelled=True, accuracy=[], unmeasured=why)
    assert f"but this run measured no accuracy: {why}" in Page(page.render(run)).text
    assert "no labels," not in text and "Without labels" not in text


def test_curves_that_were_not_measured_or_not_finite_are_left_out():
    rows = [{"epoch": 1, "step": 1, "loss": 1.0, "effective_rank": float("nan")}]
    text = Page(page.render(dataclasses.replace(EMPTY, history=rows))).text
    assert "Not measured in this run: kNN, online classifier." in text
    assert "Not measured in this run: dimensions in use." in text


def test_a_rejected_run_shows_its_reasons_and_the_failed_gate():
    gate = Gate("effective rank", 3.1, 8, None, False, "Dimensions in use.")
    reasons = ("Effective rank is 3.1, below 8.", "The served model stays.")
    text = Page(page.render(dataclasses.replace(EMPTY, gates=[gate], reasons=reasons))).text
    assert "Rejected" in text and "✗ failed" in text and "at least 8" in text
    assert all(reason in text for reason in reasons)
    assert "Last blessed" not in text and "no earlier blessed model" in text


def test_names_from_the_data_are_escaped(full, images):
    n = len(images.keys)
    hostile = dataclasses.replace(
        full,
        pipeline_name=HOSTILE,
        reasons=[HOSTILE],
        config={HOSTILE: HOSTILE},
        slices=[ClassSlice(HOSTILE, 0.5, 0.4, 0.6, 9)],
        splits=[SplitStatistics(HOSTILE, 9, {HOSTILE: 9}, {HOSTILE: 9}, pixels={HOSTILE: 9})],
        corrupt=[(HOSTILE, HOSTILE)],
        anomalies=[HOSTILE],
        lineage=[(HOSTILE, HOSTILE)],
        gallery=dataclasses.replace(images, keys=[HOSTILE] * n, class_names=[HOSTILE] * 5),
    )
    document = page.render(hostile)
    parsed = Page(document)
    assert document.count("<script") == parsed.tags.count("script") == 2  # BokehJS and the map.
    assert "alert('x')" not in document
    assert HOSTILE in parsed.values("alt") and HOSTILE in parsed.values("title")
    assert parsed.text.count(HOSTILE) >= 15


def test_a_file_name_that_is_not_utf_8_is_escaped(images):
    named = dataclasses.replace(images, keys=["latin \udcfc.jpg"] * len(images.keys))
    run = dataclasses.replace(EMPTY, gallery=named, corrupt=[("\udcfc", "cut")], corrupt_total=1)
    assert r"latin \udcfc.jpg" in page.render(run).encode("utf-8").decode()


def test_an_unreadable_image_costs_nothing_else(images):
    broken = dataclasses.replace(images, images=[b"?"] * len(images.images))
    assert "no preview" in Page(page.render(dataclasses.replace(EMPTY, gallery=broken))).text


@pytest.mark.parametrize("value", [1.0, 0.0, float("nan")])
def test_a_collapsed_encoder_gets_a_sentence_and_no_map(images, value):
    collapsed = dataclasses.replace(images, embeddings=np.full((30, 16), value, np.float32))
    text = Page(page.render(dataclasses.replace(EMPTY, gallery=collapsed))).text
    assert "No map: it needs at least three images whose embeddings are finite and differ." in text


def test_classes_come_worst_first(full):
    rows = re.findall(r'<th scope="row" class="name">([^<]+)</th><?', page.render(full))
    start = rows.index("all classes")
    assert rows[start : start + 4] == ["all classes", "cat", "dog", "bird"]


def test_a_thousand_classes_stay_readable(full):
    slices = [ClassSlice(f"class {i:03}", i / 1000, i / 1000, i / 1000, 50) for i in range(1000)]
    labels = {f"class {i:03}": 1000 + i for i in range(1000)}
    run = dataclasses.replace(
        full, slices=slices, splits=[SplitStatistics("train", 10, {}, labels)], gallery=None
    )
    document = page.render(run)
    text = Page(document).text
    assert "the 20 worst and the 10 best" in text and "970 classes between" in text
    shown = [int(i) for i in re.findall(r">class (\d{3})<", document)]
    assert shown[:30] == [*range(20), *range(990, 1000)]
    assert shown[30:] == [*range(999, 989, -1), *range(9, -1, -1)]
    assert len(document) < 200_000


def test_the_same_run_makes_the_same_page(full):
    assert page.render(full) == page.render(full)


def test_write_replaces_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "new" / "report.html"
    page.write(EMPTY, path)
    page.write(dataclasses.replace(EMPTY, run_id="run-2"), str(path))
    assert "run-2" in path.read_text(encoding="utf-8")
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_the_page_needs_no_tensorflow():
    code = "import sys, pipelines.report.page; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    assert {"tensorflow", "tfx", "sklearn"}.isdisjoint(loaded)
