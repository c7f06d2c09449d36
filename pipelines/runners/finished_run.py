"""Recalls the last finished run, so that the same command again need not start TFX.

`finished.json` in the root names everything that the run depended on, and what it left.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence

from pipelines.digests import package_digest
from pipelines.settings import LABELS, Settings

_NAME = "finished.json"


def recall(settings: Settings) -> str | None:
    """Returns what a run with these settings would print, if it would change nothing.

    None if the last run was another one or did not finish, if something that it left is gone, or if
    the settings do not allow a cache.
    """
    try:
        with open(os.path.join(settings.pipeline_root, _NAME)) as file:
            last = json.load(file)
        if not settings.enable_cache or last["key"] != _key(settings):
            return None
        return last["printed"] if all(map(os.path.exists, last["left"])) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def forget(settings: Settings) -> None:
    """Forgets the last run, because another one begins."""
    path = os.path.join(settings.pipeline_root, _NAME)
    if os.path.exists(path):
        os.remove(path)


def record(settings: Settings, printed: str, left: Sequence[str]) -> None:
    """Records a finished run.

    Args:
        settings: Settings of the run.
        printed: What the same run again will print.
        left: Paths that must still exist then, of those that exist now; if one of them is remote,
            nothing is recorded.
    """
    from byol_tf.files import write_atomically  # Imports TensorFlow, which `recall` does not need.

    key = _key(settings)
    if key and not any("://" in path for path in left):
        content = {"key": key, "printed": printed, "left": [*filter(os.path.exists, left)]}
        path = os.path.join(settings.pipeline_root, _NAME)
        write_atomically(path, json.dumps(content, indent=2) + "\n")


def _key(settings: Settings) -> str | None:
    """Returns a digest of settings, code and the contents of the files that the settings name.

    None if such a file is remote: it might change without our knowing.
    """
    total = hashlib.sha256(package_digest().encode())
    labels = None if settings.labels in LABELS else settings.labels
    known = dataclasses.asdict(settings)
    # Where the data and their labels lie does not count, but what they are.
    if settings.listing_digest:
        known["data_dir"] = "FOLDER"
    if settings.embed_data_dir and settings.embed_listing_digest:
        known["embed_data_dir"] = "FOLDER"
    if labels:
        known["labels"] = "FILE"
    total.update(json.dumps(known, sort_keys=True, default=str).encode())
    for path in (settings.schema_file, settings.records_schema_file, labels):
        if path and "://" in path:
            return None
        if path:
            with open(path, "rb") as file:
                total.update(hashlib.sha256(file.read()).digest())
    return total.hexdigest()
