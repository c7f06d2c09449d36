"""Groups of near-duplicates against the connected components of SciPy."""

import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components

from serving.search import duplicates, embeddings, index


def indexed(values):
    keys = [f"{row}" for row in range(len(values))]
    return index.build(embeddings.Embeddings(keys, values.astype(np.float32)))


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.95, 0.999])
def test_groups_are_the_connected_components(monkeypatch, threshold):
    monkeypatch.setattr(duplicates, "_ROWS", 7)
    monkeypatch.setattr(duplicates, "_COLUMNS", 16)
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(30, 8))
    values = centres[rng.integers(0, 30, 150)] + rng.normal(size=(150, 8)) * rng.choice(
        [0.0, 0.1, 0.5], size=(150, 1)
    )
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    similarity = unit @ unit.T
    count, labels = connected_components(similarity >= threshold)
    expected = {frozenset(np.flatnonzero(labels == label)) for label in range(count)}
    groups = duplicates.find(indexed(values), threshold)
    found = [frozenset(map(int, [group.key, *dict(group.others)])) for group in groups]
    assert set(found) == {group for group in expected if len(group) > 1}
    assert len(found) > 3 or threshold < 0.8
    sizes = [len(group) for group in found]
    assert sizes == sorted(sizes, reverse=True)
    for group, members in zip(groups, found, strict=True):
        rows = sorted(members)
        middle = rows[int(np.argmax(similarity[np.ix_(rows, rows)].sum(axis=1)))]
        assert similarity[int(group.key), rows].sum() == pytest.approx(
            similarity[middle, rows].sum(), abs=1e-4
        )
        scores = [score for _, score in group.others]
        assert scores == sorted(scores, reverse=True)
        others = [int(key) for key, _ in group.others]
        np.testing.assert_allclose(scores, similarity[int(group.key), others], atol=1e-5)


def test_without_duplicates_there_are_no_groups_and_a_collapsed_model_has_one():
    assert duplicates.find(indexed(np.eye(5)), 0.95) == []
    assert duplicates.find(indexed(np.ones([1, 5])), 0.95) == []
    (group,) = duplicates.find(indexed(np.ones([3000, 4])), 0.95)
    assert len(group.others) == 2999
