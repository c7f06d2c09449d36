import json

import numpy as np
import pandas
import pytest
import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import anomalies_pb2

from byol_tf.errors import UserError
from pipelines.components.data_gate.drift import describe, distance, drift, stop

WARNING, ERROR = anomalies_pb2.AnomalyInfo.WARNING, anomalies_pb2.AnomalyInfo.ERROR


def statistics(cats=50, jpegs=100, sizes=(64,), number=200, rgb=100):
    """Makes statistics of `number` images: `cats`, `jpegs`, `rgb` in percent, sizes in turn."""
    hundreds = np.arange(number) * 100 // number
    table = {
        "image/label_text": np.where(hundreds < cats, "cat", "dog"),
        "image/format": np.where(hundreds < jpegs, "JPEG", "PNG"),
        "image/pixels": np.where(hundreds < rgb, "3 channels, 8 bit", "1 channel, 16 bit"),
        "image/height": np.resize(sizes, number),
        "image/width": np.resize(sizes, number) + 16,
    }
    return tfdv.generate_statistics_from_dataframe(pandas.DataFrame(table))


def moved(before, now, max_drift=0.1):
    """Returns the features whose drift is found."""
    schema = tfdv.infer_schema(now)
    found = drift(now, before, schema, "train", max_drift, "error")
    assert all(severity == ERROR for severity, _ in found)
    warnings = drift(now, before, schema, "train", max_drift, "warning")
    assert warnings == [(WARNING, text) for _, text in found]
    assert all(text.startswith("train: ") and "the last run" in text for _, text in found)
    return sorted(text.split(": ")[1] for _, text in found)


def test_data_that_have_not_moved_are_let_pass():
    photos = statistics(sizes=(48, 64, 96, 128))
    assert moved(photos, photos, max_drift=0.001) == []
    same = statistics(sizes=(48, 64, 96, 128), number=400)
    assert moved(photos, same, max_drift=0.01) == []
    assert moved(statistics(), statistics(), max_drift=0.001) == []  # All of one size.


@pytest.mark.parametrize(
    ("now", "max_drift", "names"),
    [
        # L-infinity: the share of cats moves from 0.5 to 0.65.
        ({"cats": 65}, 0.1, ["image/label_text"]),
        ({"cats": 65}, 0.2, []),
        ({"cats": 55}, 0.1, []),
        ({"cats": 35}, 0.1, ["image/label_text"]),
        ({"cats": 100}, 0.4, ["image/label_text"]),  # No dogs are left.
        ({"jpegs": 80}, 0.1, ["image/format"]),
        ({"jpegs": 95}, 0.1, []),
        ({"rgb": 90}, 0.1, ["image/pixels"]),  # One file in ten; the bound is 0.1 squared.
        ({"rgb": 99}, 0.11, []),
        ({"rgb": 50}, 1.0, []),
        ({"sizes": (256,)}, 0.1, ["image/height", "image/width"]),
        ({"sizes": (64, 256)}, 0.1, ["image/height", "image/width"]),
        ({"sizes": (64,) * 39 + (256,)}, 0.1, []),  # 1 of 40.
        ({"sizes": (64,) * 39 + (256,)}, 0.01, ["image/height", "image/width"]),
        ({"sizes": (64,) * 199 + (20_000,)}, 0.01, []),
        ({"cats": 65, "jpegs": 80}, 0.1, ["image/format", "image/label_text"]),
    ],
)
def test_what_moved_further_than_max_drift_is_found(now, max_drift, names):
    assert moved(statistics(), statistics(**now), max_drift) == names


@pytest.mark.parametrize(("shift", "spread"), [(0, 1), (40, 1), (200, 1), (0, 0.5), (0, 0.1)])
def test_the_distance_of_sizes_is_kolmogorovs_and_smirnovs_or_less(shift, spread):
    rng = np.random.default_rng(0)
    before = rng.integers(200, 600, 2000)
    now = (400 + spread * (rng.integers(200, 600, 2000) - 400) + shift).astype(int)
    values = np.unique([*before, *now])
    shares = [
        np.searchsorted(np.sort(sizes), values, side="right") / 2000 for sizes in (before, now)
    ]
    expected = np.abs(shares[0] - shares[1]).max()
    histograms = [
        next(
            feature.num_stats.histograms
            for feature in statistics(sizes=sizes, number=2000).datasets[0].features
            if feature.path.step[0] == "image/height"
        )
        for sizes in (before, now)
    ]
    # With ten buckets the place of a tenth of the values is unknown, twice.
    assert expected - 0.2 <= distance(*histograms) <= expected + 1e-3


def test_drift_of_channels_names_them_and_is_not_measured_against_older_statistics():
    now, before = statistics(rgb=90), statistics()
    ((_, text),) = drift(now, before, tfdv.infer_schema(now), "train", 0.1, "error")
    assert text.startswith("train: image/pixels: ") and "1 channel, 16 bit" in text
    (dataset,) = before.datasets
    for index, feature in enumerate(dataset.features):
        if feature.path.step[0] == "image/pixels":
            del dataset.features[index]
            break
    assert drift(now, before, tfdv.infer_schema(now), "train", 0.1, "error") == []


def test_more_images_of_the_same_kind_are_no_drift():
    assert moved(statistics(number=200), statistics(number=2000), max_drift=0.01) == []


def test_anomalies_are_described_with_their_split():
    anomalies = anomalies_pb2.Anomalies()
    anomalies.anomaly_info["b"].CopyFrom(
        anomalies_pb2.AnomalyInfo(severity=WARNING, description="is new")
    )
    anomalies.anomaly_info["a"].CopyFrom(
        anomalies_pb2.AnomalyInfo(severity=ERROR, description="is gone")
    )
    anomalies.dataset_anomaly_info.CopyFrom(
        anomalies_pb2.AnomalyInfo(severity=ERROR, description="too few")
    )
    assert describe(anomalies, "eval", "the schema") == [
        (ERROR, "eval: a: is gone (against the schema)"),
        (WARNING, "eval: b: is new (against the schema)"),
        (ERROR, "eval: too few (against the schema)"),
    ]
    assert describe(anomalies_pb2.Anomalies(), "eval", "the schema") == []


@pytest.mark.parametrize(
    ("stop_on", "severities", "stopped"),
    [
        ("warning", [WARNING], True),
        ("warning", [ERROR], True),
        ("error", [WARNING], False),
        ("error", [WARNING, ERROR], True),
        ("never", [WARNING, ERROR], False),
        ("warning", [], False),
    ],
)
def test_the_least_severity_that_stops_is_a_choice(stop_on, severities, stopped):
    found = [(severity, f"anomaly {severity}") for severity in severities]
    if not stopped:
        stop(found, stop_on)
        return
    with pytest.raises(UserError) as error:
        stop(found, stop_on)
    assert f"anomaly {severities[-1]}" in str(error.value)
    if stop_on == "error":  # A warning did not stop the run, so the sentence does not name it.
        assert f"anomaly {WARNING}" not in str(error.value)


def test_many_anomalies_are_one_sentence():
    with pytest.raises(UserError) as error:
        stop([(ERROR, f"<{number}>") for number in range(5)], "error")
    assert "<0>; <1>; <2> and 2 more" in str(error.value) and "\n" not in str(error.value)


@pytest.fixture
def gate(tmp_path):
    """Runs the executor on statistics, a schema and the last approved statistics."""
    from tfx.v1.types import standard_artifacts

    from pipelines.artifacts import ApprovedStatistics
    from pipelines.components.data_gate.executor import Executor

    runs = []

    def run(now, schema=None, baseline=None, stop_on="error", drift_severity="error"):
        folder = tmp_path / str(len(runs))
        runs.append(folder)
        schema = schema or tfdv.infer_schema(now)
        artifacts = {
            "statistics": standard_artifacts.ExampleStatistics(),
            "schema": standard_artifacts.Schema(),
            "anomalies": standard_artifacts.ExampleAnomalies(),
        }
        for name, artifact in artifacts.items():
            artifact.uri = str(folder / name)
            for split in ("Split-train", "Split-eval"):
                (folder / name / split).mkdir(parents=True)
        artifacts["statistics"].split_names = '["train", "eval"]'
        (folder / "schema" / "Split-train").rmdir()
        (folder / "schema" / "Split-eval").rmdir()
        tfdv.write_schema_text(schema, str(folder / "schema" / "schema.pbtxt"))
        anomalies = tfdv.validate_statistics(now, schema).SerializeToString()
        for split in ("Split-train", "Split-eval"):
            path = folder / "statistics" / split / "FeatureStats.pb"
            path.write_bytes(now.SerializeToString())
            (folder / "anomalies" / split / "SchemaDiff.pb").write_bytes(anomalies)
        approved = ApprovedStatistics()
        approved.uri = str(folder / "approved")
        inputs = {name: [artifact] for name, artifact in artifacts.items()}
        if baseline:
            inputs["baseline"] = [baseline]
        options = {"stop_on": stop_on, "max_drift": 0.1, "drift_severity": drift_severity}
        Executor().Do(inputs, {"approved": [approved]}, options)
        return approved

    return run


def let_pass(approved):
    with open(f"{approved.uri}/anomalies.json") as file:
        return json.load(file)


@pytest.mark.slow
def test_the_first_run_has_nothing_to_drift_from(gate):
    now = statistics(cats=90)
    approved = gate(now)
    assert let_pass(approved) == []
    for split in ("train", "eval"):
        path = f"{approved.uri}/Split-{split}/FeatureStats.pb"
        assert tfdv.load_stats_binary(path) == now
    assert approved.get_string_custom_property("baseline") == ""


@pytest.mark.slow
def test_drift_from_the_last_approved_stops_and_can_be_approved(gate):
    first = gate(statistics())
    assert let_pass(gate(statistics(cats=55), baseline=first)) == []
    with pytest.raises(UserError, match="train: image/label_text: .*--stop_on=never"):
        gate(statistics(cats=90), baseline=first)
    approved = gate(statistics(cats=90), baseline=first, stop_on="never")
    assert [text.split(": ")[:2] for text in let_pass(approved)] == [
        ["train", "image/label_text"],
        ["eval", "image/label_text"],
    ]
    assert approved.get_string_custom_property("baseline") == first.uri
    assert let_pass(gate(statistics(cats=90), baseline=approved)) == []


@pytest.mark.slow
def test_a_folder_that_grows_and_shrinks_is_a_warning_without_a_gate_on_labels(gate, caplog):
    first = gate(statistics())
    grown = gate(statistics(sizes=(64, 256)), baseline=first, drift_severity="warning")
    assert len(let_pass(grown)) == 4 and "image/height" in let_pass(grown)[0]
    assert "the run goes on; --stop_on=warning would stop it" in caplog.text
    assert len(let_pass(gate(statistics(), baseline=grown, drift_severity="warning"))) == 4
    with pytest.raises(UserError, match="image/height"):
        gate(statistics(), baseline=grown, drift_severity="warning", stop_on="warning")


@pytest.mark.slow
def test_what_violates_the_schema_stops(gate):
    schema = tfdv.infer_schema(statistics(jpegs=100))
    tfdv.get_domain(schema, "image/format")  # Raises if there is none.
    with pytest.raises(UserError, match=r"image/format: .*\(against the schema\)"):
        gate(statistics(jpegs=50), schema)
    assert len(let_pass(gate(statistics(jpegs=50), schema, stop_on="never"))) == 2
