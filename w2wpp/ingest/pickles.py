"""Untrusted pickles, read as inert data: names in them are recorded, never imported, called or instantiated.

torch.load(weights_only=True) cannot replace this module, because it bounds neither time nor memory. 300 bytes occupy it
forever: a dict key of 60 tuples, each holding the previous one twice. A megabyte of nested tuples crashes the process,
and `bytearray`, which it always allows, fills the memory. A table also needs numpy's globals. With them, the flags of a
pickled dtype make numpy interpret numbers of the file as addresses of objects.
"""

import pickletools
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar

from w2wpp.files.errors import InputError
from w2wpp.files.tensor_files import printable

_LITERALS = {
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE8",
    "BININT",
    "BININT1",
    "BININT2",
    "LONG1",
    "BINFLOAT",
    "BINBYTES",
    "SHORT_BINBYTES",
    "BINBYTES8",
    "BYTEARRAY8",
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_DAMAGED = "The file is damaged or no pickle; fetch it again"
_Kind = TypeVar("_Kind")


@dataclass(frozen=True)
class Global:
    """A class or function by its full name, such as "numpy.ndarray"."""

    name: str


@dataclass(eq=False)
class Call:
    """A recorded call that was not made: the callable, the arguments, and the state for its result."""

    function: str
    arguments: tuple
    state: object = None


@dataclass(eq=False)
class Persistent:
    """A reference to data outside the pickle, where torch stores the numbers of tensors."""

    key: object


def read_pickle(file: BinaryIO, allowed: Collection[str], where: str, remedy: str) -> object:
    """The next pickle in a file: None, bool, int, float, str, bytes, bytearray, tuple, list and dict are returned as
    such.

    Everything else is a `Global`, a `Call` or a `Persistent`, which the caller interprets. Tuples and lists may be
    nested to any depth, and shared; keys of dicts are text. Of protocols 2 to 5, only the opcodes in pickles of tables
    and tensors are read. Time and memory are proportional to the size of the pickle.

    Args:
        file: at the start of the pickle; at its end on return.
        allowed: the full names that the pickle may hold; those of Python 2's builtins count as those of Python 3.
        where: for messages.
        remedy: for messages, if the pickle holds anything beyond that.

    Raises:
        InputError: it holds another name or opcode, or is damaged.
    """
    machine = _Machine(allowed, where, remedy)
    try:
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name == "STOP":
                return machine.pop()
            machine.step(opcode.name, argument)
        raise ValueError("no end")
    except (ValueError, IndexError, KeyError) as error:
        raise InputError(where, None, f"not a sound pickle ({printable(str(error))})", _DAMAGED) from error


class _Machine:
    """The pickle machine: a stack, the stacks below each open mark, and a memo."""

    def __init__(self, allowed: Collection[str], where: str, remedy: str) -> None:
        self.allowed, self.where, self.remedy = allowed, where, remedy
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def pop(self) -> object:
        return self.stack.pop()

    def pop_to_mark(self) -> list:
        items, self.stack = self.stack, self.below.pop()
        return items

    def top(self, kind: type[_Kind]) -> _Kind:
        if type(self.stack[-1]) is not kind:
            raise ValueError(f"no {kind.__name__} where there must be one")
        return self.stack[-1]

    def step(self, opcode: str, argument: Any) -> None:
        match opcode:
            case _ if opcode in _LITERALS:
                self.stack.append(argument)
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "BINGET" | "LONG_BINGET":
                self.stack.append(self.memo[argument])
            case _ if opcode in _CONSTANTS:
                self.stack.append(_CONSTANTS[opcode])
            case "MARK":
                self.below.append(self.stack)
                self.stack = []
            case "TUPLE":
                items = self.pop_to_mark()
                self.stack.append(tuple(items))
            case "EMPTY_TUPLE":
                self.stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = [self.pop() for _ in range(int(opcode[-1]))]
                self.stack.append(tuple(reversed(items)))
            case "EMPTY_LIST":
                self.stack.append([])
            case "APPEND":
                item = self.pop()
                self.top(list).append(item)
            case "APPENDS":
                items = self.pop_to_mark()
                self.top(list).extend(items)
            case "EMPTY_DICT":
                self.stack.append({})
            case "SETITEM":
                value, key = self.pop(), self.pop()
                self.set_items([key, value])
            case "SETITEMS":
                self.set_items(self.pop_to_mark())
            case "GLOBAL":
                self.name(*argument.split(" ", 1))
            case "STACK_GLOBAL":
                name, module = self.pop(), self.pop()
                self.name(module, name)
            case "REDUCE" | "NEWOBJ":
                arguments, function = self.pop(), self.pop()
                if type(function) is not Global or type(arguments) is not tuple:
                    raise ValueError("a call of what is no function, or with what are no arguments")
                self.stack.append(Call(function.name, arguments))
            case "BUILD":
                state, call = self.pop(), self.top(Call)
                if call.state is not None:
                    raise ValueError("a state is given twice")
                call.state = state
            case "BINPERSID":
                self.stack.append(Persistent(self.pop()))
            case "PROTO" | "FRAME":
                pass
            case _:
                raise InputError(
                    self.where, None, f"a pickle with the opcode {opcode}, which is not read here", self.remedy
                )

    def set_items(self, items: list) -> None:
        # A key that is not text could be a tuple too deep to hash.
        if len(items) % 2 or any(type(key) is not str for key in items[::2]):
            raise ValueError("a dict with keys other than text")
        self.top(dict).update(zip(items[::2], items[1::2], strict=True))

    def name(self, module: object, name: object) -> None:
        if type(module) is not str or type(name) is not str:
            raise ValueError("a name that is no text")
        full = f"{'builtins' if module == '__builtin__' else module}.{name}"
        if full not in self.allowed:
            raise InputError(
                self.where, printable(full), "named in this pickle, which could run code when loaded", self.remedy
            )
        self.stack.append(Global(full))
