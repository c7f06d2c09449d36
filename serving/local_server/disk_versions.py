"""Versions on disk: which folders are versions, which are wanted, and whether they still change."""

import errno
import os
import stat
import time
from collections.abc import Hashable, Iterator

from absl import logging
from tensorflow_serving.config import model_server_config_pb2

from serving.local_server.status import Code, StatusError

# Files and folders of a version; an exported encoder has less than ten.
_MOST_FILES = 10_000


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
        unlike mtime, no copying tool can set it back. What cannot be read counts as a file that
        does not change; `check` tells what is wrong with it.
    """
    entries: list[tuple[Hashable, ...]] = []
    newest = 0
    for file, info in _files(path):
        match info:
            case FileNotFoundError():  # Renamed or removed since the walk: still changing.
                entries.append((file, None))
                newest = time.time_ns()
            case OSError():
                entries.append((file, info.errno))
            case _:
                entries.append((file, info.st_size, info.st_ctime_ns))
                newest = max(newest, info.st_ctime_ns)
    return tuple(sorted(entries, key=repr)), (time.time_ns() - newest) / 1e9 if entries else 0.0


def check(path: str) -> None:
    """Raises FAILED_PRECONDITION unless all below `path` are files and folders that can be read.

    Reading anything else, such as a pipe, could take for ever.
    """
    for file, info in _files(path):
        if isinstance(info, OSError):
            problem = info.strerror
        elif not stat.S_ISREG(info.st_mode):
            problem = "it is not a regular file"
        elif not os.access(file, os.R_OK):
            problem = os.strerror(errno.EACCES)
        else:
            continue
        raise StatusError(Code.FAILED_PRECONDITION, f"cannot read {file} of the model: {problem}")


def _files(path: str) -> Iterator[tuple[str, os.stat_result | OSError]]:
    """Yields all below `path` that are no folders, links followed, and why it cannot be read.

    The walk ends after the first circular link, and after 10,000 files.
    """
    count = 0
    folders: list[tuple[str, tuple[tuple[int, int], ...]]] = [(path, ())]
    while folders:
        folder, above = folders.pop()
        try:
            info = os.stat(folder)
            identity = (info.st_dev, info.st_ino)
            if identity in above:
                raise OSError(errno.ELOOP, "it is a link to a folder that contains it")
            names = sorted(os.listdir(folder))
        except OSError as error:
            yield folder, error
            if error.errno == errno.ELOOP:
                return
            continue
        for name in names:
            file = os.path.join(folder, name)
            count += 1
            if count > _MOST_FILES:
                yield folder, OSError(errno.EFBIG, f"the model has more than {_MOST_FILES} files")
                return
            try:
                info = os.stat(file)
            except OSError as error:
                yield file, error
                continue
            if stat.S_ISDIR(info.st_mode):
                folders.append((file, (*above, identity)))
            else:
                yield file, info
