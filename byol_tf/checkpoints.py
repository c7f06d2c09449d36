"""The checkpoints in a run's folder: what is in one, which is the latest whole one, restoring."""

import functools
import os
import re
import time
from typing import Any

import keras
import tensorflow as tf
from absl import logging

from byol_tf import keras_compat
from byol_tf.errors import UserError


def find_latest(folder: str) -> str | None:
    """Returns the path of the latest whole checkpoint of a folder, without .index.

    Damaged ones after it are named in one warning. Each candidate is read once, to its end: about a
    second per gigabyte.

    Args:
        folder: Folder of a `tf.train.CheckpointManager`.

    Returns:
        The path, or None if nothing has been saved.

    Raises:
        UserError: There are checkpoints, and none is whole. What a first save left when it was cut
            short does not count: TensorFlow lists a checkpoint once it is complete.
    """
    paths = saved(folder)
    damaged: list[str] = []
    for path in reversed(paths):
        if is_whole(path):
            if damaged:
                logging.warning(
                    "damaged: %s; the last whole checkpoint before that is taken: '%s'.",
                    _quoted(damaged),
                    path,
                )
            return path
        damaged.append(path)
    if damaged and tf.io.gfile.exists(os.path.join(folder, "checkpoint")):
        raise UserError(
            f"no checkpoint in '{folder}' is whole (damaged: {_quoted(damaged)}); put one back "
            "from a copy, or remove that folder to train from the start."
        )
    return None


def saved(folder: str) -> list[str]:
    """Returns the paths of all checkpoints of a folder, oldest first, without .index.

    They are those that TensorFlow has listed in the file `checkpoint`; if that file is missing or
    damaged, all that have an index.
    """
    if listed := _listed(folder):
        return listed
    indices = tf.io.gfile.glob(os.path.join(folder, "*-*.index"))
    return sorted((path.removesuffix(".index") for path in indices), key=_number)


def list_up_to(path: str, folder: str) -> None:
    """Makes `path`, one of those saved, the latest that TensorFlow lists for `folder`."""
    if _listed(folder)[-1:] == [path]:
        return
    paths = saved(folder)
    listed = paths[: paths.index(path) + 1]
    tf.compat.v1.train.update_checkpoint_state(
        folder,
        path,
        listed,
        # The manager deletes an old checkpoint only if it has a time after `last_preserved`.
        all_model_checkpoint_timestamps=[time.time()] * len(listed),
        last_preserved_timestamp=0.0,
    )


def remove_unfinished(path: str) -> None:
    """Removes what a failed save left of the checkpoint `path`, so that the disk has room again."""
    folder = os.path.dirname(path)
    leftovers = tf.io.gfile.glob([f"{path}_temp", os.path.join(folder, "checkpoint.tmp*")])
    if path not in _listed(folder):
        leftovers += tf.io.gfile.glob(f"{path}.*")
    for leftover in leftovers:
        if tf.io.gfile.isdir(leftover):
            tf.io.gfile.rmtree(leftover)
        else:
            tf.io.gfile.remove(leftover)


def is_whole(path: str) -> bool:
    """Returns whether all values of the checkpoint `path` can be read and fit their checksums."""
    try:
        reader = tf.train.load_checkpoint(path)
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
    # IndexError: TensorFlow's name for a file that ends too soon.
    except (tf.errors.OpError, IndexError, ValueError) as error:
        logging.debug("checkpoint '%s': %s", path, error)
        return False
    return True


def restore(checkpoint: tf.train.Checkpoint, path: str) -> None:
    """Restores all objects of `checkpoint` from the file `path`.

    Args:
        checkpoint: Objects to restore, all of which must be in the file.
        path: Path of the checkpoint, without .index.

    Raises:
        UserError: There is no such checkpoint, it is damaged, or it has another architecture.
    """
    try:
        # Partial: no warnings if only the encoder is restored, or after what is raised here.
        checkpoint.restore(path).expect_partial().assert_existing_objects_matched()
    except (AssertionError, IndexError, ValueError, tf.errors.OpError) as error:
        logging.debug("restore: %s", error)
        raise UserError(_why_not(path)) from error


def trackable(part: Any) -> Any:
    """Returns what a `tf.train.Checkpoint` takes of a model, layer or optimizer.

    Keras 2's are themselves trackable. For those of Keras 3 this makes a graph with the names of
    Keras 2, so that a run of one can be continued and exported by the other.
    """
    return part if keras_compat.TRACKABLE else _as_keras_2(part, {})


def _listed(folder: str) -> list[str]:
    try:
        state = tf.train.get_checkpoint_state(folder)
    except ValueError as error:  # The list is empty or not text.
        logging.debug("list of checkpoints in '%s': %s", folder, error)
        state = None
    return list(state.all_model_checkpoint_paths) if state else []


def _why_not(path: str) -> str:
    if not tf.io.gfile.exists(f"{path}.index"):
        return f"there is no checkpoint '{path}'; give the path without .index."
    if not is_whole(path):
        return f"the checkpoint '{path}' is damaged; give an earlier one."
    return (
        f"the checkpoint '{path}' is of another architecture or optimizer; restore it with the "
        "config it was trained with (config.json in its run folder)."
    )


def _number(path: str) -> int:
    match = re.search(r"-(\d+)$", path)
    return int(match[1]) if match else -1


def _quoted(paths: list[str]) -> str:
    return ", ".join(f"'{path}'" for path in paths)


def _as_keras_2(part: Any, made: dict[int, tf.train.Checkpoint]) -> tf.train.Checkpoint:
    if id(part) not in made:
        made[id(part)] = tf.train.Checkpoint(**_children(part, made))
    return made[id(part)]


def _children(part: Any, made: dict[int, tf.train.Checkpoint]) -> dict[str, Any]:
    if isinstance(part, keras.optimizers.Optimizer):
        variables = list(map(keras_compat.native, part.variables))
        children = {"_iterations": keras_compat.native(part._iterations), "_variables": variables}
        if isinstance(part._learning_rate, keras.optimizers.schedules.LearningRateSchedule):
            children["_current_learning_rate"] = tf.Variable(0.0)  # Keras 2 keeps it.
        return children
    if isinstance(part, keras.Sequential | _functional_class()):
        weighted = [layer for layer in part.layers if layer.weights]
        parts = {f"layer_with_weights-{i}": layer for i, layer in enumerate(weighted)}
    else:
        parts = {
            name: value
            for name, value in vars(part).items()
            if isinstance(value, keras.layers.Layer | keras.metrics.Metric)
            and value.variables
            and not name.startswith("_")
        }
    children = {name: _as_keras_2(value, made) for name, value in parts.items()}
    below = {id(keras_compat.native(v)) for value in parts.values() for v in value.variables}
    own = part.variables if isinstance(part, keras.metrics.Metric) else part.weights
    for weight in own:
        variable = keras_compat.native(weight)
        if id(variable) not in below:
            name = _keras_2_name(part, weight)
            while name in children:
                name += "_"
            children[name] = variable
    return children


def _keras_2_name(part: keras.layers.Layer, weight: Any) -> str:
    """Returns the attribute that holds a weight of this layer of Keras 3 in Keras 2."""
    name = keras_compat.native(weight).name.rpartition("/")[2].partition(":")[0]
    if re.fullmatch(r"variable(_\d+)?", name):  # It has no name of its own, as in ConvNeXt.
        name = next((key for key, value in vars(part).items() if value is weight), name)
    depthwise = isinstance(part, keras.layers.DepthwiseConv1D | keras.layers.DepthwiseConv2D)
    return "depthwise_kernel" if depthwise and name == "kernel" else name


@functools.cache
def _functional_class() -> type[keras.Model]:
    """Returns the class of a model made of inputs and outputs, which has no public name."""
    pixel = keras.Input((1,))
    return type(keras.Model(pixel, pixel))
