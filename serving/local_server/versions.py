"""Versions on disk: which folders are versions, which of them a policy wants, and when one is whole."""

import os
import time
from collections.abc import Hashable

from absl import logging
from tensorflow_serving.config import model_server_config_pb2


def on_disk(base_path: str) -> dict[int, str]:
    """The children of `base_path` whose whole names are numbers: number → path.

    Two names for one number ("1", "001"): the later in name order, with a warning. Names in no
    number are passed over, which is what a copy in progress should have.

    Raises:
        OSError: there is no such folder.
    """
    found = {}
    for name in sorted(os.listdir(base_path)):
        if name.isascii() and name.isdecimal() and int(name) < 2**63:
            if int(name) in found:
                logging.warning(
                    "%s: several folders are version %d; serving %s", base_path, int(name), name
                )
            found[int(name)] = os.path.join(base_path, name)
    return found


def wanted(config: model_server_config_pb2.ModelConfig) -> dict[int, str]:
    """The versions on disk that the model's version policy asks for: number → path.

    Raises:
        OSError: there is no folder `base_path`.
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
                    "%s: version %s is asked for and is not there", config.base_path, missing
                )
            return {number: found[number] for number in policy.specific.versions if number in found}
        case _:
            newest = sorted(found, reverse=True)[: policy.latest.num_versions or 1]
            return {number: found[number] for number in newest}


def fingerprint(path: str) -> tuple[Hashable, float]:
    """What the files below `path` look like now: names, sizes and times of change.

    Returns:
        Something equal for the same state, and how long ago a file last changed, seconds; 0 where
        there is no file yet. The time of change (ctime) is the file system's own: unlike that of
        modification, no copying tool can set it back.
    """
    entries, newest = [], 0
    for folder, _, names in os.walk(path, followlinks=True):
        for name in names:
            file = os.path.join(folder, name)
            try:
                info = os.stat(file)
            except FileNotFoundError:  # Renamed or removed between the walk and now: not at rest.
                entries.append((file, None))
                newest = time.time_ns()
                continue
            entries.append((file, info.st_size, info.st_ctime_ns))
            newest = max(newest, info.st_ctime_ns)
    return tuple(sorted(entries, key=repr)), (time.time_ns() - newest) / 1e9 if entries else 0.0
