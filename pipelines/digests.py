"""A digest of our code, which TFX's cache cannot see behind a dotted name."""

import hashlib
import pathlib
from collections.abc import Iterable

import byol_tf

_ROOT = pathlib.Path(__file__).parent
# The code that decides what components write, without runners, report and command lines:
# (folder, names in it that are skipped).
_SOURCES = (
    (pathlib.Path(byol_tf.__file__).parent, ("cli", "configs")),
    (_ROOT / "components", ()),
    (_ROOT / "images", ()),
    (_ROOT / "modules", ()),
)


def code_digest() -> str:
    """Returns 12 hex digits that change when a line of the library or of a component changes.

    They are a parameter of each of our components, so that an upgrade reruns them.
    """
    return _digest(_SOURCES)


def package_digest() -> str:
    """Returns 12 hex digits that change when any line of byol_tf or of the pipeline changes."""
    return _digest(((pathlib.Path(byol_tf.__file__).parent, ()), (_ROOT, ())))


def _digest(sources: Iterable[tuple[pathlib.Path, tuple[str, ...]]]) -> str:
    total = hashlib.sha256()
    for folder, skipped in sources:
        for path in sorted(folder.rglob("*.py")):
            # Relative, so that the digest does not depend on where the code is installed.
            name = path.relative_to(folder)
            if name.parts[0] not in skipped:
                content = path.read_bytes()
                total.update(f"{folder.name}/{name.as_posix()} {len(content)}\n".encode() + content)
    return total.hexdigest()[:12]
