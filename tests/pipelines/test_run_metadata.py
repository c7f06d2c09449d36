"""What a refusal says: the measurement, the flag that moves its bound, and what stays served."""

import json

import pytest

from pipelines.components.model_pusher.versions import newest
from pipelines.run_metadata import Artifact, Node, outcome
from pipelines.settings import Settings


@pytest.fixture
def refused(tmp_path):
    """Nodes of a run that RepresentationCheck refused, and its settings."""
    rules = [
        {"name": name, "baseline": baseline, "passed": passed, "explanation": f"{name} is low"}
        for name, baseline, passed in (
            ("representation_std", None, False),
            ("representation_rank", None, True),
            ("rotation_accuracy", 0.9, False),
        )
    ]
    (tmp_path / "measures.json").write_text(json.dumps({"rules": rules}))

    def node(**outputs: dict) -> Node:
        made = {key: [Artifact(1, str(tmp_path), key, value)] for key, value in outputs.items()}
        return Node(1, "COMPLETE", 1.0, made)

    nodes = {
        # As Evaluator leaves it if it has no thresholds: neither blessed nor refused.
        "Evaluator": node(blessing={}, evaluation={}),
        "RepresentationCheck": node(blessing={"blessed": 0}, evaluation={}),
        "ServingCheck": node(blessing={"blessed": 1}),
        "ModelPusher": node(pushed_model={"pushed": 0}),
    }
    return nodes, Settings("d", str(tmp_path), "serving", {"image_size": 32})


def test_a_refusal_names_the_flags_and_says_nothing_of_reported_accuracy(refused):
    nodes, settings = refused
    (reason,) = outcome(nodes, settings, None).reasons
    assert "representation_std is low (--min_spread lowers" in reason
    assert "rotation_accuracy is low (--max_measure_loss allows" in reason
    assert "rank" not in reason and "--min_accuracy" not in reason


def test_only_what_is_served_stays(refused, tmp_path):
    nodes, settings = refused
    base = tmp_path / "serving" / "byol"
    assert outcome(nodes, settings, newest(str(base))).sentence.endswith("Nothing is served.")
    for version in ("9", "10"):
        (base / version).mkdir(parents=True)
    sentence = outcome(nodes, settings, newest(str(base))).sentence
    assert sentence.endswith(f"The served model stays: {base}/10.")
