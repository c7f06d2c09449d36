"""What TFX's cache cannot see: the code behind a dotted name."""

import hashlib
import pathlib

import byol_tf

_ROOT = pathlib.Path(__file__).parent
# Everything that decides what a component writes: not the runners, the report, the command lines.
_SOURCES = (
    (pathlib.Path(byol_tf.__file__).parent, ("cli", "configs")),
    (_ROOT / "components", ()),
    (_ROOT / "images", ()),
    (_ROOT / "modules", ()),
)


def code_digest() -> str:
    """Twelve hex digits that change when a line of the library or of a component does.

    They travel as a parameter of every component of ours, so that an upgrade reruns them.
    """
    total = hashlib.sha256()
    for folder, skipped in _SOURCES:
        for path in sorted(folder.rglob("*.py")):
            # Below the folder: the same code digests the same wherever it is installed.
            name = path.relative_to(folder)
            if name.parts[0] not in skipped:
                content = path.read_bytes()
                total.update(f"{folder.name}/{name.as_posix()} {len(content)}\n".encode() + content)
    return total.hexdigest()[:12]
