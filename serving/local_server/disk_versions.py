"""Versions on disk: which folders are versions, which are wanted, and whether they still change."""

import os
import time
from collections.abc import Hashable

from absl import logging
from tensorflow_serving.config import model_server_config_pb2


def on_disk(base_path: str) -> dict[int, str]:
    """Returns the paths, by number, of the children of `base_path` whose whole name is a number.

    If two names mean one number ("1", "001"), the later one in name order counts, with a warning.
    Other names are ignored; a copy in progress should have such a name.

    Raises:
        OSError: The folder does not exist or cannot be read.
    """
    found: dict[int, str] = {}
    for name in sorted(os.listdir(base_path)):
        if name.isascii() and name.isdecimal() and int(name) < 2**63:
            if int(name) in found:
                logging.warning(
                    "%s: several folders are version %d; serving %s", base_path, int(name), name
                )
            found[int(name)] = os.path.join(base_path, name)
    return found


def wanted(config: model_server_config_pb2.ModelConfig) -> dict[int, str]:
    """Returns the paths, by number, of the versions on disk that the version policy selects.

    Raises:
        OSError: The folder `base_path` does not exist or cannot be read.
    """
    found = on_disk(config.base_path)
    policy = config.model_version_policy
    match policy.WhichOneof("policy_choice"):
        case "all":
            return found
        case "specific":
            missing = sorted(set(policy.specific.versions) - found.keys())
            if missing:
                logging.warning(
                    "%s: the config selects versions %s, which do not exist",
                    config.base_path,
                    missing,
                )
            return {number: found[number] for number in policy.specific.versions if number in found}
        case _:
            newest = sorted(found, reverse=True)[: policy.latest.num_versions or 1]
            return {number: found[number] for number in newest}


def fingerprint(path: str) -> tuple[Hashable, float]:
    """Summarizes the files below `path`: their names, sizes and times of change.

    Returns:
        A value that is equal while nothing changes, and the seconds since a file last changed (0 if
        there is no file yet). The time of change is ctime, which the file system sets itself:
        unlike mtime, no copying tool can set it back.
    """
    entries: list[tuple[Hashable, ...]] = []
    newest = 0
    for folder, _, names in os.walk(path, followlinks=True):
        for name in names:
            file = os.path.join(folder, name)
            try:
                info = os.stat(file)
            except FileNotFoundError:  # Renamed or removed since the walk: still changing.
                entries.append((file, None))
                newest = time.time_ns()
                continue
            entries.append((file, info.st_size, info.st_ctime_ns))
            newest = max(newest, info.st_ctime_ns)
    return tuple(sorted(entries, key=repr)), (time.time_ns() - newest) / 1e9 if entries else 0.0
