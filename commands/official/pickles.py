"""Reads pickles of networks, of stylegan2-ada-pytorch and its descendants, without running any code in them.

Such a pickle names functions and classes. stylegan2-ada-pytorch's also contain source code, which the authors' reader
executes; R3GAN's refer to modules, which that reader would import. Here every name is looked up in a closed list of
inert stand-ins, and any other name is refused before it is called. An object becomes a plain record of its class's name
and its state. Source code is dropped unread.
"""

import io
import math
import pickle
import struct
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

NUMBERS = {"f8": "d", "f4": "f", "i8": "q", "i4": "i", "b1": "?"}
"""NumPy's names of scalar types, and those of `struct`; all little-endian."""


@dataclass(eq=False)
class Record:
    """One object: a network, or a part of one.

    Args:
        class_name: its name in the source that was pickled with it, otherwise with its module, as in a.b.Name.
        state: the object's attributes: plain values, tensors and records.
    """

    class_name: str
    state: dict[str, Any]

    @property
    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of its constructor, without defaults. ValueError if they are not recorded by name."""
        given, named = self.state.get("_init_args", ()), self.state.get("_init_kwargs")
        if given or not isinstance(named, dict):
            raise ValueError(f"its {self.class_name} does not record its constructor arguments by name")
        return dict(named)

    def part(self, name: str) -> "Record":
        """A submodule. Raises ValueError if there is none."""
        modules = self.state.get("_modules")
        found = modules.get(name) if isinstance(modules, dict) else None
        if not isinstance(found, Record):
            raise ValueError(f"its {self.class_name} has no {name}")
        return found

    @property
    def items(self) -> list["Record"]:
        """The modules of a ModuleList, in order. Raises ValueError if it holds anything else."""
        return [self.part(str(i)) for i in range(len(self.state.get("_modules", {})))]

    def state_dict(self) -> dict[str, Tensor]:
        """Parameters and buffers by dotted name, as in `nn.Module.state_dict`. ValueError if it holds anything else."""
        return dict(self._tensors("", set()))

    def _tensors(self, prefix: str, met: "set[Record]") -> Iterator[tuple[str, Tensor]]:
        if self in met:  # it may contain itself, or be shared so often that there is no end of names
            raise ValueError(f"its {self.class_name} contains a module twice")
        met.add(self)
        for kind, expected in (("_parameters", Tensor), ("_buffers", Tensor), ("_modules", Record)):
            held = self.state.get(kind, {})
            if not isinstance(held, dict):
                raise ValueError(f"its {self.class_name} has no {kind}")
            for name, value in held.items():
                if value is None:
                    continue
                if not isinstance(value, expected):
                    raise ValueError(f"{prefix}{name} is a {type(value).__name__}, not a {expected.__name__}")
                if isinstance(value, Record):
                    yield from value._tensors(f"{prefix}{name}.", met)
                else:
                    yield f"{prefix}{name}", value


def read_network_pickle(path: Path, classes: Sequence[str], imported: Sequence[str] = ()) -> dict[str, Any]:
    """The content of a pickle of networks: a dict of plain values, tensors and `Record`s.

    Args:
        path: the file.
        classes: names of allowed classes that are pickled with their source.
        imported: names of allowed classes that are pickled without it, with their modules (a.b.Name).

    Raises ValueError if it is damaged or not such a pickle, or names anything else, which the message names.
    """
    try:
        with path.open("rb") as file:
            content = _Reader(file, classes, imported).load()
    except (OSError, MemoryError):
        raise
    except Exception as error:  # damaged bytes may raise any of a dozen errors
        reason = shorten(str(error), 300) or type(error).__name__
        raise ValueError(f"{path} cannot be read as a pickle of networks: {reason}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not the networks of a snapshot")
    return content


class _Reader(pickle.Unpickler):
    """An unpickler that knows only what is listed here."""

    def __init__(self, file: Any, classes: Sequence[str], imported: Sequence[str]) -> None:  # noqa: ANN401 - a binary file
        super().__init__(file)

        def reconstruct(meta: object) -> Record:
            if not isinstance(meta, dict) or not isinstance(meta.get("state"), dict):
                raise ValueError("it holds an object without a state")
            if meta.get("type") != "class" or meta.get("class_name") not in classes:
                raise ValueError(f"it holds an object of class {meta.get('class_name')!r}, which is not supported")
            return Record(meta["class_name"], dict(meta["state"]))

        # Rebuilt for each file: a pickle may set attributes on what it names, which must affect no other file.
        self.known: dict[tuple[str, str], Any] = {
            ("torch_utils.persistence", "_reconstruct_persistent_obj"): _Function(reconstruct),
            ("dnnlib.util", "EasyDict"): type("EasyDict", (dict,), {}),
            ("collections", "OrderedDict"): OrderedDict,
            ("builtins", "set"): set,
            ("torch._utils", "_rebuild_parameter"): _Function(lambda data, requires_grad, hooks: _tensor(data)),
            ("torch._utils", "_rebuild_tensor_v2"): _Function(_view),
            ("torch.storage", "_load_from_bytes"): _Function(_storage),
            ("numpy", "dtype"): type("dtype", (_NumberType,), {}),
            ("numpy.core.multiarray", "scalar"): _Function(_number),
            ("numpy._core.multiarray", "scalar"): _Function(_number),
            ("torch", "float32"): torch.float32,
            ("torch", "bfloat16"): torch.bfloat16,
        }
        for name in imported:
            module, _, own = name.rpartition(".")
            self.known[module, own] = type(own, (_Stated,), {"qualified": name})

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - as pickle has it
        if (module, name) not in self.known:
            raise ValueError(f"it asks for {module}.{name}, which is not run")
        return self.known[module, name]


class _Function:
    """A function that a pickle may call, but not change."""

    __slots__ = ("_call",)
    _call: Callable[..., Any]

    def __init__(self, call: Callable[..., Any]) -> None:
        object.__setattr__(self, "_call", call)

    def __call__(self, *arguments: Any) -> Any:  # noqa: ANN401 - whatever the pickle gives
        return self._call(*arguments)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a pickle may not change what it calls")


class _Stated(Record):
    """Stands for a class whose objects are pickled as their state alone: created without arguments, then given it."""

    qualified: ClassVar[str]

    def __new__(cls) -> Self:
        made = super().__new__(cls)
        made.class_name, made.state = cls.qualified, {}
        return made

    def __init__(self) -> None:
        """Does nothing; `__new__` has created everything."""

    def __setstate__(self, state: object) -> None:
        """Keeps the object's attributes as they are."""
        if not isinstance(state, dict):
            raise ValueError(f"it holds a {self.class_name} without a state")
        self.state = dict(state)


class _NumberType:
    """Stands for numpy.dtype: the name of a scalar type."""

    def __init__(self, name: str, *flags: object) -> None:
        if name not in NUMBERS:
            raise ValueError(f"it holds a NumPy number of type {name!r}")
        self.format = "<" + NUMBERS[name]

    def __setstate__(self, state: object) -> None:
        """Checks NumPy's byte order."""
        if not (isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", "|")):
            raise ValueError("it holds a NumPy number that is not little-endian")


def _number(kind: object, content: object) -> float | int | bool:
    if not isinstance(kind, _NumberType) or not isinstance(content, bytes):
        raise ValueError("it holds an invalid NumPy number")
    (value,) = struct.unpack(kind.format, content)
    return value


def _storage(content: object) -> torch.storage.TypedStorage:
    """The values of a tensor, which torch saves as a file within the pickle."""
    if not isinstance(content, bytes):
        raise ValueError("it holds an invalid storage")
    try:
        storage = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:  # torch's own message advises running the file
        raise ValueError("it holds a tensor with damaged values, or with more than values") from error
    if not isinstance(storage, torch.storage.TypedStorage):
        raise ValueError(f"it holds a {type(storage).__name__} in place of a storage")
    return storage


def _view(
    storage: object, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *others: object
) -> Tensor:  # others: requires_grad, hooks, metadata
    """A tensor within the bounds of its storage, which torch would extend into whatever memory follows."""
    if not isinstance(storage, torch.storage.TypedStorage):
        raise ValueError("it holds a tensor without a storage")
    if len(size) != len(stride) or any(type(n) is not int or n < 0 for n in (offset, *size, *stride)):
        raise ValueError("it holds a tensor of impossible size")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates the kind of storage that these pickles have
        if 0 not in size and max(last, math.prod(size) - 1) >= storage.size():
            raise ValueError("it holds a tensor that is larger than its storage")
        empty = torch.empty(0, dtype=storage.dtype)
        return empty.set_(storage.untyped(), offset, size, stride).clone()


def _tensor(data: object) -> Tensor:
    if not isinstance(data, Tensor):
        raise ValueError(f"it holds a {type(data).__name__} in place of a parameter")
    return data
