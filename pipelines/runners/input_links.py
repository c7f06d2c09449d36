"""Gives a run's local inputs names in its root that stay the same when the inputs move.

TFX's cache compares paths as text, but a path is not part of what data are: that is in the digest
of the names, sizes and times below the folder.
"""

import contextlib
import dataclasses
import os
from typing import Any

from pipelines.settings import LABELS, Settings, canonical

_FOLDER = ".inputs"


def linked(settings: Settings) -> Settings:
    """Returns the settings with links in the root in place of data folders and labels file.

    Remote paths stay as they are, and so do all if the root is remote or its file system has no
    links.
    """
    if "://" in settings.pipeline_root:
        return settings
    inputs = {"data_dir": settings.data_dir}
    if settings.labels not in LABELS:
        inputs["labels"] = settings.labels
    if settings.embed_data_dir:
        inputs["embed_data_dir"] = settings.embed_data_dir
    local = {name: path for name, path in inputs.items() if "://" not in path}
    folder = os.path.join(settings.pipeline_root, _FOLDER)
    try:
        os.makedirs(folder, exist_ok=True)
        links: dict[str, Any] = {
            name: _link(os.path.join(folder, name), path) for name, path in local.items()
        }
    except OSError:
        return settings
    return dataclasses.replace(settings, **links)


def _link(link: str, path: str) -> str:
    """Points `link` to `path`, atomically; returns `link`."""
    temporary = f"{link}.new"
    with contextlib.suppress(FileNotFoundError):
        os.remove(temporary)
    os.symlink(canonical(path), temporary)
    os.replace(temporary, link)
    return link
