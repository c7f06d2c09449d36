"""Numbers formatted for people. Missing values and NaN become a dash."""

import datetime
import math

MISSING = "–"
_THIN = "\N{NARROW NO-BREAK SPACE}"


def percent(fraction: float | None) -> str:
    """Formats 0.5223 as "52.2 %"."""
    if fraction is None or not math.isfinite(fraction):
        return MISSING
    return _minus(f"{100 * fraction:.1f}{_THIN}%")


def number(value: float | None) -> str:
    """Formats a number with at most four significant digits, whole numbers in full."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value == int(value) and abs(value) < 1e15:
        return _minus(f"{int(value):,}")
    return _minus(f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}")


def magnitude(count: int | None) -> str:
    """Formats 11173962 as "11.2 M"."""
    if count is None:
        return MISSING
    for scale, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= scale:
            digits = 1 if count < 100 * scale else 0
            return f"{count / scale:.{digits}f}{_THIN}{letter}"
    return str(count)


def duration(seconds: float) -> str:
    """Formats 192 as "3 min 12 s", in the two largest units."""
    if seconds < 10:
        return f"{seconds:.1f}{_THIN}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest}{_THIN}s"
    hours, minutes_rest = divmod(minutes, 60)
    if hours == 0:
        return f"{minutes}{_THIN}min {rest}{_THIN}s"
    days, hours_rest = divmod(hours, 24)
    if days == 0:
        return f"{hours}{_THIN}h {minutes_rest}{_THIN}min"
    return f"{days}{_THIN}d {hours_rest}{_THIN}h"


def date(iso: str) -> str:
    """Formats an ISO time as "24 November 2026, 00:43 UTC"; returns other text unchanged."""
    try:
        moment = datetime.datetime.fromisoformat(iso)
    except ValueError:
        return iso
    return f"{moment.day} {moment:%B %Y, %H:%M %Z}".strip()


def _minus(text: str) -> str:
    # This sign is as wide as a digit, so that columns of numbers line up; exponents keep theirs.
    return "\N{MINUS SIGN}" + text[1:] if text.startswith("-") else text
