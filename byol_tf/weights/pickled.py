"""Reads pickles as data: nothing that a file names is imported, called or looked up.

`pickle.load` runs whatever the file asks for. This is a small machine of its own for the same
opcodes: a class or function of the file stays a `Global`, a name without content, and what the file
makes of it a `Record`, unless its name is among the few `builders` that the caller allows.
"""

import io
import pickletools
import struct
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, cast

from byol_tf.errors import UserError

# A full checkpoint of a ResNet-200 has some 10,000. An opcode of one byte can make an object of 64,
# so this also bounds the memory.
_MOST_OPERATIONS = 5_000_000

_PUSHED = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Callable[[], Any]] = {
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": list,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
# Others would need a hash of what the file made, which can be nested without end.
_KEYS = (str, bytes, int, float, type(None))


class Global:
    """The name of a class or function in a pickle, such as `torch FloatStorage`."""

    def __init__(self, name: str):
        self.name = name


class Record:
    """An object of a pickle that is not rebuilt: what it is made of, and nothing it could do."""

    def __init__(self, made_by: Any, args: Any):
        self.made_by = made_by
        self.args = args if isinstance(args, tuple) else ()
        self.state: Any = None
        self.items: dict[Any, Any] = {}

    def build(self, state: Any) -> None:
        """Keeps the state that the pickle gives the object."""
        self.state = state


def load(
    file: BinaryIO,
    size: int,
    builders: Mapping[str, Callable[..., Any]],
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """Returns the object of a pickle: lists, tuples, dicts, numbers and text, the rest inert.

    A set comes as a list; an entry of a dict whose key is not a number or text is left out.

    Args:
        file: The open file, at the pickle's start.
        size: Number of bytes in the file from there, which no claim in it may exceed.
        builders: Functions by the name they have in the pickle, `module name`. What one returns
            may have a method `build(state)`.
        persistent: Returns the object of a persistent id.

    Raises:
        UserError: It is no pickle, or cut short, or uses what no checkpoint needs.
    """
    machine = _Machine(builders, persistent)
    bounded = cast(BinaryIO, _Bounded(file, size))
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(bounded)):
            if count > _MOST_OPERATIONS:
                raise ValueError("it has too many parts")
            machine.run(opcode.name, argument)
        return machine.stack[-1]
    except (
        *(ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError),
        *(struct.error, MemoryError, EOFError),
    ) as error:
        raise UserError(
            f"the pickle cannot be read ({error}); download or save it again."
        ) from error


class _Bounded:
    """A file whose reads never ask for more bytes than it has."""

    def __init__(self, file: BinaryIO, size: int):
        self._file = file
        self._left = size

    def read(self, count: int) -> bytes:
        if count > self._left:
            raise ValueError("it ends too soon")
        self._left -= count
        return self._file.read(count)

    def readline(self) -> bytes:
        line = self._file.readline(min(self._left, 1 << 16))
        self._left -= len(line)
        return line


class _Machine:
    def __init__(self, builders: Mapping[str, Callable[..., Any]], persistent: Callable | None):
        self.stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._builders = builders
        self._persistent = persistent

    def run(self, name: str, argument: Any) -> None:
        """Runs one opcode."""
        stack = self.stack
        if name in _PUSHED:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in _TUPLES:
            count = _TUPLES[name]
            if count > len(stack):
                raise ValueError("it takes more than there is")
            stack[-count:] = [tuple(stack[-count:])]
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name in ("PROTO", "FRAME", "STOP"):
            pass
        else:
            method = getattr(self, f"_run_{name.lower()}", None)
            if method is None:
                raise ValueError(f"it uses {name}, which no checkpoint needs")
            method(argument)

    def _to_mark(self) -> list[Any]:
        start = self._marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def _run_mark(self, _: None) -> None:
        self._marks.append(len(self.stack))

    def _run_pop_mark(self, _: None) -> None:
        self._to_mark()

    def _run_pop(self, _: None) -> None:
        self.stack.pop()

    def _run_dup(self, _: None) -> None:
        self.stack.append(self.stack[-1])

    def _run_memoize(self, _: None) -> None:
        self._memo[len(self._memo)] = self.stack[-1]

    def _run_tuple(self, _: None) -> None:
        self.stack.append(tuple(self._to_mark()))

    def _run_list(self, _: None) -> None:
        self.stack.append(self._to_mark())

    _run_frozenset = _run_list

    def _run_dict(self, _: None) -> None:
        items = self._to_mark()
        self.stack.append({})
        _set_items(self.stack[-1], items)

    def _run_append(self, _: None) -> None:
        value = self.stack.pop()
        _extend(self.stack[-1], [value])

    def _run_appends(self, _: None) -> None:
        values = self._to_mark()
        _extend(self.stack[-1], values)

    _run_additems = _run_appends

    def _run_setitem(self, _: None) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _set_items(self.stack[-1], [key, value])

    def _run_setitems(self, _: None) -> None:
        items = self._to_mark()
        _set_items(self.stack[-1], items)

    def _run_global(self, name: str) -> None:
        self.stack.append(Global(name))

    def _run_stack_global(self, _: None) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise ValueError("a name in it is not text")
        self.stack.append(Global(f"{module} {name}"))

    def _run_reduce(self, _: None) -> None:
        args, made_by = self.stack.pop(), self.stack.pop()
        builder = self._builders.get(made_by.name) if isinstance(made_by, Global) else None
        if builder is None:
            self.stack.append(Record(made_by, args))
        elif isinstance(args, tuple):
            self.stack.append(builder(*args))
        else:
            raise ValueError("the arguments of a function in it are not a tuple")

    _run_newobj = _run_reduce

    def _run_newobj_ex(self, _: None) -> None:
        self.stack.pop()  # Keyword arguments, which no builder takes.
        self._run_reduce(None)

    def _run_build(self, _: None) -> None:
        state = self.stack.pop()
        # Other objects have no use for one: PyTorch's OrderedDict gets `_metadata`.
        if hasattr(self.stack[-1], "build"):
            self.stack[-1].build(state)

    def _run_binpersid(self, _: None) -> None:
        if self._persistent is None:
            raise ValueError("it refers to something outside")
        self.stack.append(self._persistent(self.stack.pop()))


def _extend(target: Any, values: list[Any]) -> None:
    if isinstance(target, list):
        target.extend(values)
    elif not isinstance(target, Record):  # A list of its own class stays empty.
        raise ValueError("it appends to something that is not a list")


def _set_items(target: Any, items: list[Any]) -> None:
    mapping = target.items if isinstance(target, Record) else target
    if not isinstance(mapping, dict) or len(items) % 2:
        raise ValueError("it sets entries of something that is not a dict")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if isinstance(key, _KEYS):
            mapping[key] = value


def load_bytes(
    content: bytes,
    builders: Mapping[str, Callable[..., Any]],
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """Returns the object of a pickle in memory; see `load`."""
    return load(io.BytesIO(content), len(content), builders, persistent)
