"""Pickles are read as data: hostile ones run nothing, and claim nothing that the file has not."""

import os
import pickle
import struct
import sys
import types

import numpy as np
import pytest

from byol_tf.errors import UserError
from byol_tf.weights import deepmind, pickled
from byol_tf.weights.pickled_numpy import BUILDERS


def load(content, builders=BUILDERS, **kwargs):
    return pickled.load_bytes(content, builders, **kwargs)


class Calls:
    """Pickles to a call of `function`."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


PLAIN = {
    "epoch": 3,
    "big": 2**80,
    "negative": -(2**40),
    "rates": [0.5, -1.5, None, True, False],
    "nested": {"a": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4))},
    "text": "ü" * 300,
    "bytes": b"\0\xff" * 200,
}


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_are_read_as_pickle_reads_them(protocol):
    shared = [1]
    value = {**PLAIN, "shared": [shared, shared]}
    found = load(pickle.dumps(value, protocol))
    if protocol < 3:  # Bytes are text to be encoded there.
        assert found.pop("bytes").content() == value.pop("bytes")
    assert found == value
    assert found["shared"][0] is found["shared"][1]


@pytest.mark.parametrize(
    "dtype", ["float32", "float16", "float64", "int64", "uint8", "bool", ">f4"]
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_arrays_are_read_as_pickle_reads_them(dtype, protocol):
    array = (np.arange(24).reshape(2, 3, 4) % 5).astype(dtype)
    for layout in (array, np.asfortranarray(array), array[:, ::2]):
        found = load(pickle.dumps(layout, protocol)).numbers()
        np.testing.assert_array_equal(found, layout)


@pytest.fixture
def canary(tmp_path):
    """A file that a hostile pickle would make."""
    return tmp_path / "canary"


def hostile(canary):
    code = f"open({str(canary)!r}, 'w').close()"
    attributes = b"".join(
        [
            b"\x80\x02cbuiltins\ngetattr\n(cbuiltins\n__import__\nX\x02\0\0\0ostR",
            b"X\x06\0\0\0systemtR(X",
            struct.pack("<I", len(f"touch {canary}")),
            f"touch {canary}".encode(),
            b"tR.",
        ]
    )
    return {
        "os.system": pickle.dumps(Calls(os.system, f"touch {canary}"), 2),
        "builtins.eval": pickle.dumps(Calls(eval, f"open({str(canary)!r}, 'w')"), 2),
        "builtins.exec in protocol 4": pickle.dumps(Calls(exec, code), 4),
        "open": pickle.dumps(Calls(open, str(canary), "w"), 2),
        "a chain of getattr": attributes,
        "an old instance": f"(S'touch {canary}'\nios\nsystem\n.".encode(),
        "an object": b"(cos\nsystem\nX" + struct.pack("<I", 4) + b"trueo.",
        "in a dict": pickle.dumps({"state_dict": Calls(os.system, f"touch {canary}")}, 2),
    }


@pytest.mark.parametrize("name", hostile("x"))
def test_nothing_that_a_pickle_names_is_run(name, canary):
    content = hostile(canary)[name]
    try:
        found = load(content)
    except UserError:
        pass  # Opcodes that no checkpoint has.
    else:
        found = found.get("state_dict", found) if isinstance(found, dict) else found
        assert isinstance(found, pickled.Record)
    assert not canary.exists()


def test_the_canary_would_be_made_by_pickle(canary):
    pickle.loads(hostile(canary)["os.system"])
    assert canary.exists()


def test_state_cannot_be_set_on_anything_of_ours():
    """BUILD of `pickle` sets attributes of whatever is there, also of a class."""
    before = set(vars(pickled.Record))
    attack = b"\x80\x02cbyol_tf.weights.pickled\nRecord\n}X\x04\0\0\0evilK\x01sb."
    assert isinstance(load(attack), pickled.Global)
    assert set(vars(pickled.Record)) == before


@pytest.mark.parametrize(
    "name, content",
    {
        "text of 4 GB": b"\x80\x02X\xff\xff\xff\xff.",
        "bytes of 2^62": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b".",
        "a bytearray of 2^62": b"\x80\x05\x96" + struct.pack("<Q", 2**62) + b".",
        "a number of 2 GB": b"\x80\x02\x8b\xff\xff\xff\x7f.",
        "a frame of 2^62": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"X\x10\0\0\0.",
        "no end": pickle.dumps(PLAIN, 2)[:-1],
        "cut short": pickle.dumps(PLAIN, 2)[:100],
        "an empty file": b"",
        "no pickle": b"GIF89a" + bytes(50),
        "more taken than there is": b"\x80\x02K\x01\x87.",
        "no mark": b"\x80\x02K\x01t.",
        "an entry of a number": b"\x80\x02K\x01K\x02K\x03s.",
        "an unknown memo": b"\x80\x02h\x07.",
        "arguments that are no tuple": b"\x80\x02c_codecs\nencode\nK\x01R.",
        "wrong arguments": b"\x80\x02c_codecs\nencode\nK\x01K\x02K\x03\x87R.",
        "something outside": b"\x80\x02K\x01Q.",
        "digits without end": b"I" + b"9" * 5000 + b"\n.",
    }.items(),
)
def test_damaged_and_boasting_pickles_are_refused(name, content):
    with pytest.raises(UserError, match="pickle cannot be read"):
        load(content)


def test_a_memo_of_any_number_costs_one_entry():
    """`pickle` of C allocates 2^32 pointers for it."""
    assert load(b"\x80\x02K\x01r\xff\xff\xff\x7f.") == 1


def test_the_number_of_parts_is_bounded(monkeypatch):
    monkeypatch.setattr(pickled, "_MOST_OPERATIONS", 1000)
    with pytest.raises(UserError, match="too many parts"):
        load(b"\x80\x02" + b"}" * 2000 + b".")


def test_a_key_nested_without_end_is_left_out():
    """Its hash would end the process."""
    content = b"\x80\x02}K\x01" + b"\x85" * 100_000 + b"K\x02s."
    assert load(content) == {}


def test_an_array_of_objects_or_of_another_size_is_refused():
    objects = load(pickle.dumps(np.array([1, "a"], object), 2))
    with pytest.raises(ValueError, match="'O8'"):
        objects.numbers()
    array = pickle.dumps(np.zeros(4, np.float32), 2)
    assert array.count(b"K\x04\x85") == 1
    larger = load(array.replace(b"K\x04\x85", b"K\x7f\x85"))
    with pytest.raises(ValueError, match="another shape"):
        larger.numbers()


@pytest.mark.parametrize("value", [Calls(os.system, "true"), {"step": 3}, [1], None])
def test_a_pickle_of_something_else_is_no_checkpoint_of_deepmind(value, tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(value, 2))
    with pytest.raises(UserError, match="is not a checkpoint of DeepMind's byol"):
        deepmind.read(str(path))


class FlatMapping:
    """Pickles as haiku's does: a call of the class with a dict."""

    def __init__(self, mapping):
        self.mapping = mapping

    def __reduce__(self):
        return FlatMapping, (self.mapping,)


FlatMapping.__module__ = "haiku._src.data_structures"


def test_a_checkpoint_of_haikus_flat_mappings_is_read(monkeypatch):
    """Older files have them."""
    for name in ("haiku", "haiku._src", "haiku._src.data_structures"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["haiku._src.data_structures"].FlatMapping = FlatMapping
    found = load(
        pickle.dumps(FlatMapping({"res_net18/~/initial_conv": FlatMapping({"w": 1})}), 2),
        deepmind.BUILDERS | deepmind._MAPPINGS,
    )
    assert found == {"res_net18/~/initial_conv": {"w": 1}}
