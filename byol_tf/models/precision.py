"""The Keras dtype policy for a `precision` value on this machine."""

import contextlib
import pathlib
from collections.abc import Iterator

import keras
import tensorflow as tf

from byol_tf.errors import UserError

POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")


def resolve_precision(name: str) -> str:
    """Returns the Keras dtype policy for `name`.

    Args:
        name: A policy, or `auto`: `mixed_bfloat16` on TPUs, on GPUs of compute capability 8 or more
            and on CPUs with bfloat16 instructions (AMX or AVX-512 BF16); `mixed_float16` on older
            GPUs from capability 7; float32 elsewhere, where half precision is emulated and slower.

    Raises:
        UserError: The name is unknown.
    """
    if name in POLICIES:
        return name
    if name != "auto":
        raise UserError(f"precision '{name}' is unknown; give one of auto, {', '.join(POLICIES)}.")
    if tf.config.list_physical_devices("TPU"):
        return "mixed_bfloat16"
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = (tf.config.experimental.get_device_details(gpu) for gpu in gpus)
        capability = min(d.get("compute_capability", (0, 0)) for d in details)
        if capability >= (8, 0):
            return "mixed_bfloat16"
        return "mixed_float16" if capability >= (7, 0) else "float32"
    return "mixed_bfloat16" if cpu_bfloat16() else "float32"


def cpu_bfloat16() -> str | None:
    """Returns the CPU's bfloat16 instruction set, `amx_bf16` or `avx512_bf16`; None if unknown."""
    try:
        flags = pathlib.Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return None
    return next((flag for flag in ("amx_bf16", "avx512_bf16") if flag in flags), None)


@contextlib.contextmanager
def policy_scope(policy: str) -> Iterator[None]:
    """Sets Keras's global dtype policy for layers built inside, and restores it afterwards."""
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(policy)
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy(before)
