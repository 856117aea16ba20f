"""Check the pickle of a checkpoint instruction by instruction, without building the objects that it describes.

PyTorch's loader with weights_only=True calls only allowed functions, but it does not limit the number of calls or the
length of the arguments, so a small file can fill the memory. This module accepts only calls that torch.save writes.
"""

import pickletools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

VALUE_BYTES = {  # type of storage -> bytes per value
    **dict.fromkeys(("ByteStorage", "CharStorage", "BoolStorage"), 1),
    **dict.fromkeys(("HalfStorage", "BFloat16Storage", "ShortStorage"), 2),
    **dict.fromkeys(("FloatStorage", "IntStorage"), 4),
    **dict.fromkeys(("DoubleStorage", "LongStorage", "ComplexFloatStorage"), 8),
    "ComplexDoubleStorage": 16,
}
LONGEST_TUPLE = 64  # more than a tensor's size, a persistent id or the arguments of a call ever have
MOST_CALLS = 50_000  # a checkpoint has about five calls for each parameter tensor of the network
MOST_STATE = 8  # largest number of attributes of a mapping; a state dict has one, its metadata


def check(content: bytes, storages: Mapping[str, int]) -> None:
    """Check all instructions of a pickle.

    Args: content: the pickle. storages: key of each storage in the archive -> its size in bytes.
    Raises: ValueError for anything that torch.save does not write. A truncated pickle can also raise LookupError,
        TypeError and other errors.
    """
    reader = _Reader(storages)
    for code, argument, _ in pickletools.genops(content):
        step = STEPS.get(code.name)
        if step is None:
            raise ValueError(f"the instruction {code.name} is not allowed in a checkpoint")
        step(reader, argument)


class _Name(NamedTuple):
    """The name of a class or function in the pickle."""

    name: str


class _Storage(NamedTuple):
    """The type of a tensor's storage, and the number of its values."""

    type: str
    n_values: int


class _Tensor:
    """A placeholder for a tensor. The data of the tensor are not needed here."""


class _Mapping(dict[Any, Any]):
    """A placeholder for an OrderedDict."""


class _Reader:
    """The state of the pickle machine.

    It consists of the current stack, the earlier stacks that MARK instructions have put aside, and the memo.
    """

    def __init__(self, storages: Mapping[str, int]) -> None:
        self.sizes = storages
        self.storages: dict[str, _Storage] = {}
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memory: dict[int, Any] = {}
        self.n_calls = 0

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def nothing(self, argument: Any) -> None:
        """Ignore PROTO and STOP, which change no value."""

    def mark(self, argument: Any) -> None:
        self.below.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def pops(self, n: int) -> list[Any]:
        return [self.stack.pop() for _ in range(n)][::-1]

    def name(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        if argument not in CALLS and not (module == "torch" and name in VALUE_BYTES):
            raise ValueError(f"the name {argument} is not allowed in a checkpoint")
        self.push(_Name(argument))

    def put(self, index: int) -> None:
        self.memory[index] = self.stack[-1]

    def get(self, index: int) -> None:
        self.push(self.memory[index])

    def pack(self, items: list[Any]) -> None:
        if len(items) > LONGEST_TUPLE:
            raise ValueError(f"a tuple has {len(items)} values, which is too many")
        self.push(tuple(items))

    def extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise ValueError("values are appended to an object that is not a list")
        self.stack[-1].extend(items)

    def update(self, items: list[Any]) -> None:
        keys, target = items[::2], self.stack[-1]
        if not isinstance(target, dict) or not all(key is None or isinstance(key, str | int | float) for key in keys):
            raise ValueError("a mapping has keys that are not plain values")
        target.update(zip(keys, items[1::2], strict=True))

    def state(self, argument: Any) -> None:
        """Handle BUILD, which sets attributes of an object. Checkpoints use it only for metadata of state dicts."""
        (state,) = self.pops(1)
        if type(self.stack[-1]) is not _Mapping or type(state) is not dict or len(state) > MOST_STATE:
            raise ValueError("an object has attributes that are not allowed in a checkpoint")

    def storage(self, argument: Any) -> None:
        """Handle BINPERSID, which replaces a persistent id on the stack with the storage that has this id."""
        word, kind, key, _, n = self.stack.pop()
        if word != "storage" or type(kind) is not _Name or type(n) is not int:
            raise ValueError("a persistent id does not belong to a storage")
        found = _Storage(kind.name, n)
        n_bytes = n * VALUE_BYTES[kind.name.removeprefix("torch ")]
        if not 0 <= n_bytes <= self.sizes[key] or self.storages.setdefault(key, found) != found:
            raise ValueError("a storage does not match the archive")
        self.push(found)

    def call(self, argument: Any) -> None:
        function, arguments = self.pops(2)
        self.n_calls += 1
        if self.n_calls > MOST_CALLS or type(function) is not _Name or type(arguments) is not tuple:
            raise ValueError("there are too many calls, or an object that is not a function is called")
        self.push(CALLS[function.name](*arguments))


# The functions that a pickle may call. Each checks its arguments and returns an object that stands for the result.


def _mapping() -> _Mapping:
    return _Mapping()


def _size(values: Any) -> tuple[int, ...]:
    if type(values) is not tuple or not all(type(value) is int and value >= 0 for value in values):
        raise ValueError("the size of a tensor is not a tuple of whole numbers")
    return values


def _tensor(storage: Any, first: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any) -> _Tensor:
    """Check that a tensor lies within its storage; otherwise PyTorch would enlarge the storage. Raises: ValueError."""
    (first,), size, stride = _size((first,)), _size(size), _size(stride)
    last = first + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if type(storage) is not _Storage or hooks or (0 not in size and last >= storage.n_values):
        raise ValueError("a tensor is larger than its storage")
    return _Tensor()


def _parameter(tensor: Any, requires_grad: Any, hooks: Any) -> _Tensor:
    if type(tensor) is not _Tensor or hooks:
        raise ValueError("a parameter is not a tensor")
    return tensor


CALLS: dict[str, Callable[..., Any]] = {
    "collections OrderedDict": _mapping,
    "torch Size": _size,
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_parameter": _parameter,
}
STEPS: dict[str, Callable[[_Reader, Any], None]] = {  # all instructions that torch.save writes; torch's loader knows few others
    **dict.fromkeys(("PROTO", "STOP"), _Reader.nothing),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"), _Reader.push),
    "NONE": lambda reader, _: reader.push(None),
    "NEWTRUE": lambda reader, _: reader.push(True),
    "NEWFALSE": lambda reader, _: reader.push(False),
    "EMPTY_LIST": lambda reader, _: reader.push([]),
    "EMPTY_DICT": lambda reader, _: reader.push({}),
    "EMPTY_TUPLE": lambda reader, _: reader.push(()),
    "TUPLE1": lambda reader, _: reader.pack(reader.pops(1)),
    "TUPLE2": lambda reader, _: reader.pack(reader.pops(2)),
    "TUPLE3": lambda reader, _: reader.pack(reader.pops(3)),
    "TUPLE": lambda reader, _: reader.pack(reader.since_mark()),
    "MARK": _Reader.mark,
    "APPEND": lambda reader, _: reader.extend(reader.pops(1)),
    "APPENDS": lambda reader, _: reader.extend(reader.since_mark()),
    "SETITEM": lambda reader, _: reader.update(reader.pops(2)),
    "SETITEMS": lambda reader, _: reader.update(reader.since_mark()),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _Reader.put),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _Reader.get),
    "GLOBAL": _Reader.name,
    "BUILD": _Reader.state,
    "BINPERSID": _Reader.storage,
    "REDUCE": _Reader.call,
}
