"""The policy that `auto` selects for what the machine reports."""

import pathlib

import keras
import pytest
import tensorflow as tf

from byol_tf.errors import UserError
from byol_tf.models import precision


@pytest.mark.parametrize(
    "flags, policy",
    [
        ("fpu avx512f amx_bf16 amx_tile", "mixed_bfloat16"),
        ("fpu avx512_bf16", "mixed_bfloat16"),
        ("fpu avx2 avx512f", "float32"),
    ],
)
def test_auto_follows_the_cpus_bfloat16_instructions(flags, policy, monkeypatch):
    if tf.config.list_physical_devices("GPU"):
        pytest.skip("a GPU decides here")
    monkeypatch.setattr(
        pathlib.Path, "read_text", lambda self: f"model name : x\nflags : {flags}\n"
    )
    assert precision.resolve_precision("auto") == policy


def test_auto_without_cpuinfo_is_float32(monkeypatch):
    def missing(self):
        raise FileNotFoundError

    monkeypatch.setattr(pathlib.Path, "read_text", missing)
    assert precision.cpu_bfloat16() is None


@pytest.mark.parametrize(
    "capability, policy",
    [((8, 6), "mixed_bfloat16"), ((7, 5), "mixed_float16"), ((6, 1), "float32")],
)
def test_auto_follows_the_gpus_capability(capability, policy, monkeypatch):
    gpus = {"GPU": ["gpu"]}
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus.get(kind, []))
    monkeypatch.setattr(
        tf.config.experimental, "get_device_details", lambda gpu: {"compute_capability": capability}
    )
    assert precision.resolve_precision("auto") == policy


def test_policy_scope_puts_the_global_policy_back():
    with precision.policy_scope("mixed_bfloat16"):
        assert keras.layers.Dense(1).compute_dtype == "bfloat16"
    assert keras.mixed_precision.global_policy().name == "float32"


def test_unknown_precision_is_named():
    with pytest.raises(UserError, match="'int8'.*mixed_bfloat16"):
        precision.resolve_precision("int8")
