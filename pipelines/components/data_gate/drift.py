"""Measures how far data has drifted since the last run, and stops on too much. Imports no TFX."""

from collections.abc import Sequence

import tensorflow_data_validation as tfdv
from absl import logging
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2, statistics_pb2

from byol_tf.errors import UserError

_CATEGORICAL = ("image/format", "image/pixels", "image/label_text")
_NUMERIC = ("image/height", "image/width")
_SEVERITIES = {
    "warning": anomalies_pb2.AnomalyInfo.WARNING,
    "error": anomalies_pb2.AnomalyInfo.ERROR,
}


def describe(anomalies: anomalies_pb2.Anomalies, split: str, against: str) -> list[tuple[int, str]]:
    """Returns (severity, sentence) of each anomaly; `against` names what the data differs from."""
    found = [
        (info.severity, f"{split}: {name}: {info.description} (against {against})")
        for name, info in sorted(anomalies.anomaly_info.items())
    ]
    if anomalies.HasField("dataset_anomaly_info"):
        info = anomalies.dataset_anomaly_info
        found.append((info.severity, f"{split}: {info.description} (against {against})"))
    return found


def drift(
    current: statistics_pb2.DatasetFeatureStatisticsList,
    before: statistics_pb2.DatasetFeatureStatisticsList,
    schema: schema_pb2.Schema,
    split: str,
    max_drift: float,
    severity: str,
) -> list[tuple[int, str]]:
    """Returns (severity, sentence) of each feature that has drifted further than `max_drift`.

    The severity is the one given, `warning` or `error`.

    The drift of formats, pixels and labels is the L-infinity distance, which TFDV computes; that of
    height and width is `distance`. TFDV's Jensen-Shannon divergence is 1 between images of one size
    and the same images with a single one of another size among them. Channels and bits do not vary
    by chance: the bound of `image/pixels` is the square of `max_drift`, 0.01 for 0.1, so that one
    file in ten is found.
    """
    known = {
        feature.path.step[0] if feature.path.step else feature.name
        for dataset in before.datasets
        for feature in dataset.features
    }
    compared = schema_pb2.Schema()
    for feature in schema.feature:
        # Statistics of earlier versions lack features that this one has.
        if feature.name in _CATEGORICAL and feature.name in known:
            compared.feature.add(name=feature.name, type=feature.type)
            bound = max_drift**2 if feature.name == "image/pixels" else max_drift
            compared.feature[-1].drift_comparator.infinity_norm.threshold = bound
    anomalies = tfdv.validate_statistics(current, compared, previous_statistics=before)
    names = {feature.name for feature in compared.feature}
    for name in set(anomalies.anomaly_info) - names:
        del anomalies.anomaly_info[name]  # A column that `compared` leaves out on purpose.
    sentences = [text for _, text in describe(anomalies, split, "the last run")]
    for name in _NUMERIC:
        moved = distance(_histograms(current, name), _histograms(before, name))
        if moved > max_drift:
            sentences.append(
                f"{split}: {name}: at least {moved:.3f} of the images have moved to other "
                f"values, above the threshold {max_drift:g} (against the last run)"
            )
    return [(_SEVERITIES[severity], text) for text in sentences]


def distance(
    current: Sequence[statistics_pb2.Histogram], before: Sequence[statistics_pb2.Histogram]
) -> float:
    """Returns a lower bound of the Kolmogorov-Smirnov distance of two distributions.

    A histogram does not say where in a bucket the values are, so the smallest possible distance is
    taken.

    Args:
        current, before: Histograms of the same values, each with different buckets.

    Returns:
        Distance in [0, 1]; 0 if one of the two has no values.
    """
    edges = {
        edge
        for histogram in (*current, *before)
        for bucket in histogram.buckets
        for edge in (bucket.low_value, bucket.high_value)
    }
    largest = 0.0
    for edge in edges if current and before else ():
        (least_now, most_now), (least_before, most_before) = (
            _bounds(histograms, edge) for histograms in (current, before)
        )
        largest = max(largest, least_now - most_before, least_before - most_now)
    return largest


def _bounds(histograms: Sequence[statistics_pb2.Histogram], value: float) -> tuple[float, float]:
    """Returns the least and the largest possible fraction of values up to `value`."""
    least, most = 0.0, 1.0
    for histogram in histograms:
        total = sum(bucket.sample_count for bucket in histogram.buckets)
        below = sum(b.sample_count for b in histogram.buckets if b.high_value <= value)
        started = sum(b.sample_count for b in histogram.buckets if b.low_value <= value)
        least, most = max(least, below / total), min(most, started / total)
    return least, most


def _histograms(
    statistics: statistics_pb2.DatasetFeatureStatisticsList, name: str
) -> list[statistics_pb2.Histogram]:
    """Returns the non-empty histograms of a numeric feature; none if the feature is missing."""
    return [
        histogram
        for dataset in statistics.datasets
        for feature in dataset.features
        if list(feature.path.step) == [name] or feature.name == name
        for histogram in feature.num_stats.histograms
        if sum(bucket.sample_count for bucket in histogram.buckets) > 0
    ]


def stop(found: list[tuple[int, str]], stop_on: str) -> None:
    """Logs all anomalies; raises a UserError if one is at least as severe as `stop_on`."""
    least = _SEVERITIES.get(stop_on)
    severe = [text for severity, text in found if least is not None and severity >= least]
    for _, text in found:
        logging.warning("%s", text)
    if severe:
        more = f" and {len(severe) - 3} more" if len(severe) > 3 else ""
        raise UserError(
            f"the data is not as expected: {'; '.join(severe[:3])}{more}; correct the data or, if "
            "it is meant to be like this now, run once with --stop_on=never."
        )
    if found and stop_on == "error":
        logging.warning("the run goes on; --stop_on=warning would stop it on such a change.")
