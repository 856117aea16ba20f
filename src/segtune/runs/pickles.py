"""The pickle in a checkpoint, followed instruction by instruction without building anything that it describes.

PyTorch's loader with weights_only=True calls only what it allows, but as often as the pickle says and with arguments of any
length, so that a small file can fill the memory. Here every call is compared with what torch.save writes.
"""

import pickletools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

VALUE_BYTES = {  # the types of storage, and the bytes of one value
    **dict.fromkeys(("ByteStorage", "CharStorage", "BoolStorage"), 1),
    **dict.fromkeys(("HalfStorage", "BFloat16Storage", "ShortStorage"), 2),
    **dict.fromkeys(("FloatStorage", "IntStorage"), 4),
    **dict.fromkeys(("DoubleStorage", "LongStorage", "ComplexFloatStorage"), 8),
    "ComplexDoubleStorage": 16,
}
LONGEST_TUPLE = 64  # a tensor's size, a persistent id and the arguments of a call have fewer
MOST_CALLS = 50_000  # a checkpoint has about five for each parameter of the network
MOST_STATE = 8  # attributes of a mapping; a state dict has one, its metadata


def check(content: bytes, storages: Mapping[str, int]) -> None:
    """Follow the pickle to its end.

    Args: storages: the bytes of each storage in the archive, by its key.
    Raises: ValueError (LookupError, TypeError, ... for half a pickle) for anything that torch.save does not write.
    """
    reader = _Reader(storages)
    for code, argument, _ in pickletools.genops(content):
        step = STEPS.get(code.name)
        if step is None:
            raise ValueError(f"{code.name} is no instruction of a checkpoint")
        step(reader, argument)


class _Name(NamedTuple):
    """A class or function that the pickle names."""

    name: str


class _Storage(NamedTuple):
    """A storage of a tensor, with the number of its values."""

    type: str
    n_values: int


class _Tensor:
    """A tensor; nothing of it is needed."""


class _Mapping(dict[Any, Any]):
    """An OrderedDict."""


class _Reader:
    """The state of the machine that a pickle instructs: a stack, the stacks below its marks, and a memory."""

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
        """PROTO and STOP change no value."""

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
            raise ValueError(f"{argument} is no part of a checkpoint")
        self.push(_Name(argument))

    def put(self, index: int) -> None:
        self.memory[index] = self.stack[-1]

    def get(self, index: int) -> None:
        self.push(self.memory[index])

    def pack(self, items: list[Any]) -> None:
        if len(items) > LONGEST_TUPLE:
            raise ValueError(f"a tuple of {len(items)} values")
        self.push(tuple(items))

    def extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise ValueError("values are added to what is no list")
        self.stack[-1].extend(items)

    def update(self, items: list[Any]) -> None:
        keys, target = items[::2], self.stack[-1]
        if not isinstance(target, dict) or not all(key is None or isinstance(key, str | int | float) for key in keys):
            raise ValueError("a mapping with keys that are no plain values")
        target.update(zip(keys, items[1::2], strict=True))

    def state(self, argument: Any) -> None:
        """BUILD gives attributes to the value below: in a checkpoint, its metadata to a state dict."""
        (state,) = self.pops(1)
        if type(self.stack[-1]) is not _Mapping or type(state) is not dict or len(state) > MOST_STATE:
            raise ValueError("attributes that no value of a checkpoint has")

    def storage(self, argument: Any) -> None:
        """BINPERSID replaces a persistent id by the storage that it names."""
        word, kind, key, _, n = self.stack.pop()
        if word != "storage" or type(kind) is not _Name or type(n) is not int:
            raise ValueError("a persistent id that names no storage")
        found = _Storage(kind.name, n)
        n_bytes = n * VALUE_BYTES[kind.name.removeprefix("torch ")]
        if not 0 <= n_bytes <= self.sizes[key] or self.storages.setdefault(key, found) != found:
            raise ValueError("a storage that the archive does not hold")
        self.push(found)

    def call(self, argument: Any) -> None:
        function, arguments = self.pops(2)
        self.n_calls += 1
        if self.n_calls > MOST_CALLS or type(function) is not _Name or type(arguments) is not tuple:
            raise ValueError("more calls than a checkpoint needs, or a call of a value")
        self.push(CALLS[function.name](*arguments))


# The functions that a pickle may call: each checks its arguments, and returns what stands for the result


def _mapping() -> _Mapping:
    return _Mapping()


def _size(values: Any) -> tuple[int, ...]:
    if type(values) is not tuple or not all(type(value) is int and value >= 0 for value in values):
        raise ValueError("a size that is no tuple of whole numbers")
    return values


def _tensor(storage: Any, first: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any) -> _Tensor:
    """Raises: ValueError unless the tensor lies within its storage; PyTorch would enlarge the storage."""
    (first,), size, stride = _size((first,)), _size(size), _size(stride)
    last = first + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if type(storage) is not _Storage or hooks or (0 not in size and last >= storage.n_values):
        raise ValueError("a tensor that its storage does not hold")
    return _Tensor()


def _parameter(tensor: Any, requires_grad: Any, hooks: Any) -> _Tensor:
    if type(tensor) is not _Tensor or hooks:
        raise ValueError("a parameter that is no tensor")
    return tensor


CALLS: dict[str, Callable[..., Any]] = {
    "collections OrderedDict": _mapping,
    "torch Size": _size,
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_parameter": _parameter,
}
STEPS: dict[str, Callable[[_Reader, Any], None]] = {  # all that torch.save writes; its loader knows hardly any more
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
