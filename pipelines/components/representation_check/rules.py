"""Rules for an encoder that is judged without labels. Imports neither TensorFlow nor TFX."""

# Measure -> whether more is better.
_COMPARED = {"spread": True, "effective_rank": True, "alignment": False, "uniformity": False}
_MIN_RANK = 2.0


def judge(
    candidate: dict[str, float],
    baseline: dict[str, float] | None,
    min_spread: float,
    max_loss: float,
) -> list[dict]:
    """Applies the rules.

    Args:
        candidate, baseline: Measures of `byol_tf.evaluation.label_free` by name; no baseline in the
            first run.
        min_spread: Lowest spread, in [0, 1].
        max_loss: Largest loss relative to the absolute value of the baseline, in [0, 1].

    Returns:
        One dict per rule: name, value, bound, baseline, passed, explanation.
    """
    rules = [
        _rule("spread", candidate, min_spread, True, None, "not collapsed to a point"),
        _rule("effective_rank", candidate, _MIN_RANK, True, None, "not collapsed to a line"),
    ]
    if baseline is None:
        return rules
    for name, more_is_better in _COMPARED.items():
        slack = max_loss * abs(baseline[name])
        bound = baseline[name] - slack if more_is_better else baseline[name] + slack
        purpose = f"no more than {max_loss:.0%} worse than the last blessed model"
        rules.append(_rule(name, candidate, bound, more_is_better, baseline[name], purpose))
    return rules


def _rule(
    name: str,
    candidate: dict[str, float],
    bound: float,
    more_is_better: bool,
    baseline: float | None,
    purpose: str,
) -> dict:
    value = candidate[name]
    passed = value >= bound if more_is_better else value <= bound
    return {
        "name": name,
        "value": value,
        "bound": bound,
        "baseline": baseline,
        "passed": bool(passed),
        "explanation": f"{name.replace('_', ' ')} is {value:.3f} and must be "
        f"{'at least' if more_is_better else 'at most'} {bound:.3f}: {purpose}",
    }
