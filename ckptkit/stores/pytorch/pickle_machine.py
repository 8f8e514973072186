"""What a pickle would build, told without building it: nothing is imported, called or run.

A pickle is a program for a machine with a stack (source: Lib/pickletools.py of CPython, which
describes every opcode).  Here the machine knows plain values alone; what a pickle names is kept as
a `Global`, what it calls as a `PickledCall` with its arguments.  What those mean is for the reader
of a format to say (`tensors`), and for `scan` to judge.

Sizes are those of the pickle: each opcode pushes one value, a memo keeps references, and no value
is copied.  So what is built here is no larger than the pickle, but for values that refer to
themselves, which a reader must not follow without end.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from ckptkit.errors import CkptkitError, FormatError, TruncatedError, UnsupportedError

MAX_OPCODES = 50_000_000
_MAX_LONG = 1 << 10  # bytes of an integer; torch's own magic number has ten
_MAX_LINE = 1 << 16


class Global(NamedTuple):
    """Something that a pickle names, "torch._utils" and "_rebuild_tensor_v2"."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class PickledCall:
    """What a pickle calls, or makes an object of: `function(*args)`, then what it puts into it.

    function: a Global, most of the time.  state: what BUILD gives it.  items: of a mapping.
    values: of a list or set.
    """

    __slots__ = ("args", "function", "items", "state", "values")

    def __init__(self, function: Any, args: tuple[Any, ...]) -> None:
        self.function = function
        self.args = args
        self.state: Any = None
        self.items: list[tuple[Any, Any]] = []
        self.values: list[Any] = []


class Persistent(NamedTuple):
    """What lies outside of the pickle: torch names a storage by such an id."""

    id: Any


class _Mark:
    """Where a run of values on the stack begins."""


_MARK = _Mark()


class Pickle(NamedTuple):
    """What a pickle would build, and everything that it names, in the order of naming.

    persistent: what lies outside of it.  end: bytes that it takes.
    """

    value: Any
    globals: tuple[Global, ...]
    called: frozenset[Global]
    persistent: tuple[Persistent, ...] = ()
    end: int = 0


def read_pickle(data: bytes, where: str) -> Pickle:
    """Return what a pickle would build.

    Args:
        data: the pickle, from its first opcode on.
        where: the file and member, for messages.

    Raises:
        TruncatedError: it ends before its last opcode.
        FormatError: it is no pickle, or breaks the rules of the machine.
        UnsupportedError: it takes something that no pickle of a file can (an extension's number).
    """
    found, error = read_as_far(data, where)
    if error is not None:
        raise error
    return found


def read_as_far(data: bytes, where: str) -> tuple[Pickle, CkptkitError | None]:
    """Return what `read_pickle` does, and what kept it from the end, if anything.

    Of a pickle that breaks off, what it names and calls until then stands: who loads it has run
    that before it fails.
    """
    machine = _Machine(data, where)
    value: Any = None
    error: CkptkitError | None = None
    try:
        value = machine.run()
    except CkptkitError as refusal:
        error = refusal
    except (IndexError, struct.error):
        error = FormatError(where, f"a pickle that is broken at byte {machine.at}")
        if machine.at >= len(data):
            error = TruncatedError(where, "the pickle ends before its last opcode")
    except (TypeError, KeyError, ValueError, AttributeError) as broken:
        message = f"a pickle that is broken at byte {machine.at} ({type(broken).__name__})"
        error = FormatError(where, message)
    outside = tuple(machine.persistent)
    named, called = tuple(machine.named), frozenset(machine.called)
    return Pickle(value, named, called, outside, machine.at), error


class _Machine:
    def __init__(self, data: bytes, where: str) -> None:
        self.data = data
        self.where = where
        self.at = 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.named: dict[Global, None] = {}
        self.called: set[Global] = set()
        self.persistent: list[Persistent] = []

    def run(self) -> Any:
        data, handlers = self.data, _HANDLERS
        for _ in range(MAX_OPCODES):
            code = data[self.at]
            self.at += 1
            if code == _STOP:
                return self.pop()
            handler = handlers[code]
            if handler is None:
                raise FormatError(self.where, f"no opcode {code:#04x} at byte {self.at - 1}")
            handler(self)
        raise FormatError(self.where, f"more than {MAX_OPCODES:,} opcodes")

    # -- bytes -------------------------------------------------------------------------------------

    def take(self, size: int) -> bytes:
        end = self.at + size
        found = self.data[self.at : end]
        if len(found) < size:
            self.at = len(self.data)
            raise IndexError
        self.at = end
        return found

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def byte(self) -> int:
        at = self.at
        self.at = at + 1  # past the end there is no byte, and the index is refused
        return self.data[at]

    def word(self) -> int:
        at = self.at
        found = self.data[at : at + 4]
        self.at = at + len(found)
        if len(found) < 4:
            raise IndexError
        return int.from_bytes(found, "little")

    def line(self) -> str:
        return self.raw_line().decode("utf-8", "backslashreplace")

    def raw_line(self) -> bytes:
        end = self.data.find(b"\n", self.at, self.at + _MAX_LINE)
        if end < 0:
            self.at = len(self.data)
            raise IndexError
        found = self.data[self.at : end]
        self.at = end + 1
        return found

    # -- the stack ---------------------------------------------------------------------------------

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("a mark where a value should be")
        return value

    def popped(self) -> list[Any]:
        """Take the values above the last mark, and the mark."""
        stack = self.stack
        for place in range(len(stack) - 1, -1, -1):
            if stack[place] is _MARK:
                values = stack[place + 1 :]
                del stack[place:]
                return values
        raise ValueError("no mark")

    def top(self) -> Any:
        value = self.stack[-1]
        if value is _MARK:
            raise ValueError("a mark where a value should be")
        return value

    def name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a name that is no text")
        found = Global(module, name)
        self.named[found] = None
        self.push(found)

    def call(self, function: Any, args: Any) -> None:
        if not isinstance(args, tuple):
            raise ValueError("arguments that are no tuple")
        if isinstance(function, Global):
            self.called.add(function)
        self.push(PickledCall(function, args))


# -- opcodes ---------------------------------------------------------------------------------------

_STOP = ord(".")
_Handler = Callable[[_Machine], None]
_HANDLERS: list[_Handler | None] = [None] * 256


def _opcode(code: bytes) -> Callable[[_Handler], _Handler]:
    def kept(handler: _Handler) -> _Handler:
        _HANDLERS[code[0]] = handler
        return handler

    return kept


def _constant(code: bytes, make: Callable[[], Any]) -> None:
    _HANDLERS[code[0]] = lambda machine: machine.stack.append(make())


_FRESH: tuple[tuple[bytes, Callable[[], Any]], ...] = (
    (b"N", lambda: None),
    (b"\x88", lambda: True),
    (b"\x89", lambda: False),
    (b"]", list),
    (b"}", dict),
    (b")", tuple),
    (b"\x8f", set),
)
for _code, _make in _FRESH:
    _constant(_code, _make)
_constant(b"(", lambda: _MARK)


@_opcode(b"\x80")
def _proto(machine: _Machine) -> None:
    if machine.number(1) > 5:
        raise FormatError(machine.where, "a pickle of a protocol that no Python reads")


@_opcode(b"\x95")
def _frame(machine: _Machine) -> None:
    machine.take(8)


@_opcode(b"K")
def _binint1(machine: _Machine) -> None:
    machine.stack.append(machine.byte())


@_opcode(b"M")
def _binint2(machine: _Machine) -> None:
    machine.push(machine.number(2))


@_opcode(b"J")
def _binint(machine: _Machine) -> None:
    machine.push(int.from_bytes(machine.take(4), "little", signed=True))


@_opcode(b"\x8a")
def _long1(machine: _Machine) -> None:
    machine.push(int.from_bytes(machine.take(machine.number(1)), "little", signed=True))


@_opcode(b"\x8b")
def _long4(machine: _Machine) -> None:
    size = machine.number(4)
    if size > _MAX_LONG:
        raise FormatError(machine.where, f"an integer of {size:,} bytes")
    machine.push(int.from_bytes(machine.take(size), "little", signed=True))


@_opcode(b"I")
def _int(machine: _Machine) -> None:
    text = machine.line()
    machine.push({"00": False, "01": True}[text] if text in ("00", "01") else _whole(text))


@_opcode(b"L")
def _long(machine: _Machine) -> None:
    machine.push(_whole(machine.line().removesuffix("L")))


def _whole(text: str) -> int:
    if len(text) > _MAX_LONG:
        raise ValueError("an integer that is too long")
    return int(text)


@_opcode(b"G")
def _binfloat(machine: _Machine) -> None:
    machine.push(struct.unpack(">d", machine.take(8))[0])


@_opcode(b"F")
def _float(machine: _Machine) -> None:
    machine.push(float(machine.line()))


def _text(code: bytes, width: int, decode: Callable[[bytes], Any]) -> None:
    def handler(machine: _Machine) -> None:
        size = machine.word() if width == 4 else machine.number(width)
        machine.stack.append(decode(machine.take(size)))

    _HANDLERS[code[0]] = handler


def _utf8(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def _latin(data: bytes) -> str:  # what Python 2 called a string
    return data.decode("latin-1")


for _code, _width, _decode in (
    (b"\x8c", 1, _utf8),
    (b"X", 4, _utf8),
    (b"\x8d", 8, _utf8),
    (b"U", 1, _latin),
    (b"T", 4, _latin),
    (b"C", 1, bytes),
    (b"B", 4, bytes),
    (b"\x8e", 8, bytes),
    (b"\x96", 8, bytes),
):
    _text(_code, _width, _decode)


@_opcode(b"V")
def _unicode(machine: _Machine) -> None:
    machine.push(machine.raw_line().decode("raw-unicode-escape"))


@_opcode(b"S")
def _string(machine: _Machine) -> None:
    machine.push(machine.line()[1:-1])


@_opcode(b"t")
def _tuple(machine: _Machine) -> None:
    machine.push(tuple(machine.popped()))


@_opcode(b"\x85")
def _tuple1(machine: _Machine) -> None:
    machine.push((machine.pop(),))


@_opcode(b"\x86")
def _tuple2(machine: _Machine) -> None:
    second, first = machine.pop(), machine.pop()
    machine.push((first, second))


@_opcode(b"\x87")
def _tuple3(machine: _Machine) -> None:
    third, second, first = machine.pop(), machine.pop(), machine.pop()
    machine.push((first, second, third))


@_opcode(b"l")
def _list(machine: _Machine) -> None:
    machine.push(machine.popped())


@_opcode(b"d")
def _dict(machine: _Machine) -> None:
    machine.push(dict(_pairs(machine.popped())))


@_opcode(b"\x91")
def _frozenset(machine: _Machine) -> None:
    machine.push(tuple(machine.popped()))


def _pairs(values: list[Any]) -> list[tuple[Any, Any]]:
    if len(values) % 2:
        raise ValueError("a key without a value")
    pairs = list(zip(values[::2], values[1::2], strict=True))
    return [(_key(key), value) for key, value in pairs]


def _key(key: Any) -> Any:
    """Return a key that a dict can have; a list stands for itself by its identity."""
    try:
        hash(key)
    except TypeError:
        return ("unhashable", id(key))
    return key


def _set_items(target: Any, pairs: list[tuple[Any, Any]]) -> None:
    if isinstance(target, dict):
        target.update(pairs)
    elif isinstance(target, PickledCall):
        target.items.extend(pairs)
    else:
        raise ValueError("items for what is no mapping")


@_opcode(b"s")
def _setitem(machine: _Machine) -> None:
    value, key = machine.pop(), machine.pop()
    _set_items(machine.top(), [(_key(key), value)])


@_opcode(b"u")
def _setitems(machine: _Machine) -> None:
    pairs = _pairs(machine.popped())
    _set_items(machine.top(), pairs)


def _append_all(target: Any, values: list[Any]) -> None:
    if isinstance(target, list):
        target.extend(values)
    elif isinstance(target, set):
        target.update(map(_key, values))
    elif isinstance(target, PickledCall):
        target.values.extend(values)
    else:
        raise ValueError("values for what is no list")


@_opcode(b"a")
def _append(machine: _Machine) -> None:
    value = machine.pop()
    _append_all(machine.top(), [value])


@_opcode(b"e")
@_opcode(b"\x90")
def _appends(machine: _Machine) -> None:
    values = machine.popped()
    _append_all(machine.top(), values)


@_opcode(b"0")
def _pop(machine: _Machine) -> None:
    machine.stack.pop()


@_opcode(b"1")
def _pop_mark(machine: _Machine) -> None:
    machine.popped()


@_opcode(b"2")
def _dup(machine: _Machine) -> None:
    machine.push(machine.top())


@_opcode(b"q")
def _binput(machine: _Machine) -> None:
    machine.memo[machine.byte()] = machine.top()


@_opcode(b"r")
def _long_binput(machine: _Machine) -> None:
    machine.memo[machine.word()] = machine.top()


@_opcode(b"p")
def _put(machine: _Machine) -> None:
    machine.memo[_whole(machine.line())] = machine.top()


@_opcode(b"\x94")
def _memoize(machine: _Machine) -> None:
    machine.memo[len(machine.memo)] = machine.top()


@_opcode(b"h")
def _binget(machine: _Machine) -> None:
    machine.stack.append(machine.memo[machine.byte()])


@_opcode(b"j")
def _long_binget(machine: _Machine) -> None:
    machine.stack.append(machine.memo[machine.word()])


@_opcode(b"g")
def _get(machine: _Machine) -> None:
    machine.push(machine.memo[_whole(machine.line())])


@_opcode(b"c")
def _global(machine: _Machine) -> None:
    module = machine.line()
    machine.name(module, machine.line())


@_opcode(b"\x93")
def _stack_global(machine: _Machine) -> None:
    name, module = machine.pop(), machine.pop()
    machine.name(module, name)


@_opcode(b"R")
def _reduce(machine: _Machine) -> None:
    args, function = machine.pop(), machine.pop()
    machine.call(function, args)


@_opcode(b"\x81")
def _newobj(machine: _Machine) -> None:
    args, function = machine.pop(), machine.pop()
    machine.call(function, args)


@_opcode(b"\x92")
def _newobj_ex(machine: _Machine) -> None:
    keywords, args, function = machine.pop(), machine.pop(), machine.pop()
    machine.call(function, args)
    if isinstance(keywords, dict):
        machine.top().items.extend(keywords.items())


@_opcode(b"o")
def _obj(machine: _Machine) -> None:
    function, *args = machine.popped()
    machine.call(function, tuple(args))


@_opcode(b"i")
def _inst(machine: _Machine) -> None:
    module = machine.line()
    name = machine.line()
    args = tuple(machine.popped())
    machine.name(module, name)
    machine.call(machine.pop(), args)


@_opcode(b"b")
def _build(machine: _Machine) -> None:
    state = machine.pop()
    target = machine.top()
    if not isinstance(target, PickledCall):
        raise ValueError("a state for what is no object")
    target.state = state


@_opcode(b"Q")
def _binpersid(machine: _Machine) -> None:
    machine.persistent.append(Persistent(machine.pop()))
    machine.push(machine.persistent[-1])


@_opcode(b"P")
def _persid(machine: _Machine) -> None:
    machine.persistent.append(Persistent(machine.line()))
    machine.push(machine.persistent[-1])


@_opcode(b"\x98")
def _readonly_buffer(machine: _Machine) -> None:
    machine.top()


def _extension(machine: _Machine) -> None:
    raise UnsupportedError(
        "a pickle that names things by numbers of its process", where=machine.where
    )


def _buffer(machine: _Machine) -> None:
    raise UnsupportedError("a pickle whose buffers lie outside of it", where=machine.where)


_HANDLERS[0x82] = _HANDLERS[0x83] = _HANDLERS[0x84] = _extension
_HANDLERS[0x97] = _buffer
