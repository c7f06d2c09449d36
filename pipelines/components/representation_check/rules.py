"""Rules for an encoder that is judged without labels. Imports neither TensorFlow nor TFX."""

from typing import Any

_MIN_RANK = 2.0
_CHANCE = 0.25  # Accuracy in telling four turns.


def judge(
    candidate: dict[str, Any],
    baseline: dict[str, Any] | None,
    loss: dict[str, float] | None,
    min_spread: float,
    max_loss: float,
) -> list[dict]:
    """Applies the rules.

    A collapse is refused always, a less accurate rotation probe only beyond chance: if even the low
    end of the loss's interval is above `max_loss`.

    Args:
        candidate, baseline: Measures by name: representation_std, representation_rank,
            rotation_accuracy, rotation_interval (low, high) and num_images; no baseline in the
            first run.
        loss: Loss of rotation accuracy to the baseline and its interval: value, low, high; None
            without a baseline.
        min_spread: Lowest representation_std, in [0, 1].
        max_loss: Largest loss of rotation accuracy, in [0, 1].

    Returns:
        One dict per rule: name, value, bound, baseline, passed, explanation.
    """
    rules = [
        _floor("representation_std", candidate, min_spread, "not collapsed to a point"),
        _floor("representation_rank", candidate, _MIN_RANK, "not collapsed to a line"),
    ]
    if baseline is not None and loss is not None:
        rules.append(_no_loss(candidate, baseline, loss, max_loss))
    return rules


def _floor(name: str, candidate: dict[str, Any], bound: float, purpose: str) -> dict:
    value = candidate[name]
    return {
        "name": name,
        "value": value,
        "bound": bound,
        "baseline": None,
        "passed": bool(value >= bound),
        "explanation": f"{name.replace('_', ' ')} is {value:.3f} and must be at least "
        f"{bound:.3f}: {purpose}",
    }


def _no_loss(
    candidate: dict[str, Any], baseline: dict[str, Any], loss: dict[str, float], max_loss: float
) -> dict:
    passed = not loss["low"] > max_loss
    return {
        "name": "rotation_accuracy",
        "value": candidate["rotation_accuracy"],
        "bound": baseline["rotation_accuracy"] - max_loss,
        "baseline": baseline["rotation_accuracy"],
        "passed": passed,
        "explanation": f"rotation accuracy changed by {-loss['value']:+.3f} (95 % interval "
        f"{-loss['high']:+.3f} to {-loss['low']:+.3f}) from the last blessed model and may fall by "
        f"{max_loss:.3f}: {_verdict(candidate, baseline, loss, max_loss)}",
    }


def _verdict(
    candidate: dict[str, Any], baseline: dict[str, Any], loss: dict[str, float], max_loss: float
) -> str:
    if loss["low"] > max_loss:
        return "it fell by more than chance"
    smallest = max_loss + (loss["high"] - loss["low"]) / 2
    if smallest >= 1:
        return f"{candidate['num_images']} images are too few to judge, so only a collapse counts"
    if baseline["rotation_interval"][0] <= _CHANCE:
        return "even that one does not tell how these images are turned, so only a collapse counts"
    if loss["high"] > max_loss:
        return (
            f"no loss beyond chance; {candidate['num_images']} images show one of {smallest:.3f} "
            "or more"
        )
    return "no loss"
