"""The versions of a served model: listing, comparing and pushing them. Imports no TFX."""

import hashlib
import os
import uuid

import tensorflow as tf

_PUSHING = ".pushing-"


def push(model: str, base: str, version: str) -> str:
    """Copies a SavedModel to `base`/`version`; returns that path.

    On a local file system a rename makes the complete version visible. Object stores have no
    rename: there saved_model.pb, without which a server does not load a version, is copied last.
    """
    tf.io.gfile.makedirs(base)
    for name in tf.io.gfile.listdir(base):
        if name.startswith(_PUSHING):  # Left by a push that was killed.
            tf.io.gfile.rmtree(os.path.join(base, name))
    path = os.path.join(base, version)
    if "://" in base:
        _copy(model, path)
        return path
    hidden = os.path.join(base, f"{_PUSHING}{uuid.uuid4().hex[:8]}")
    try:
        _copy(model, hidden)
        os.rename(hidden, path)
    finally:
        if tf.io.gfile.exists(hidden):
            tf.io.gfile.rmtree(hidden)
    return path


def _copy(source: str, target: str) -> None:
    """Copies all files below a folder, saved_model.pb last."""
    files = [
        os.path.relpath(os.path.join(parent, name), source)
        for parent, _, names in tf.io.gfile.walk(source)
        for name in names
    ]
    for name in sorted(files, key=lambda name: name == "saved_model.pb"):
        path = os.path.join(target, name)
        tf.io.gfile.makedirs(os.path.dirname(path))
        tf.io.gfile.copy(os.path.join(source, name), path)


def versions(base: str) -> list[int]:
    """Returns the version numbers below a model's folder."""
    if not tf.io.gfile.isdir(base):
        return []
    names = (name.rstrip("/") for name in tf.io.gfile.listdir(base))
    return [int(name) for name in names if name.isdecimal()]


def newest(base: str) -> str | None:
    """Returns the path of the newest version below a model's folder, if there is one."""
    number = max(versions(base), default=None)
    return os.path.join(base, str(number)) if number else None


def tree_digest(folder: str) -> str:
    """Returns a digest of the names and contents of all files below a folder."""
    total = hashlib.sha256()
    for parent, _, names in sorted(tf.io.gfile.walk(folder)):
        for name in sorted(names):
            path = os.path.join(parent, name)
            with tf.io.gfile.GFile(path, "rb") as file:
                content = hashlib.sha256(file.read()).hexdigest()
            total.update(f"{os.path.relpath(path, folder)} {content}\n".encode())
    return total.hexdigest()
