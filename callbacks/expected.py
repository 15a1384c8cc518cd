"""Predicts the memory of a training step, by running one on tensors that have shapes but no storage."""

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import lightning
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from callbacks.lookup import model_of
from callbacks.memory import bytes_kept
from callbacks.plan import SILENT, random_batch, run_step, state_at
from models.training.base import GenerativeModel
from settings.configurable import Configurable

CPU = torch.device("cpu")
PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")
"""Precisions of the Trainer whose steps can be predicted; others convert the weights themselves."""


@dataclass(frozen=True)
class Expected:
    """The tensors that a training step keeps, without library workspaces and the allocator's rounding."""

    peak_bytes: int
    """Highest number of bytes of tensors during the step, including weights, optimizer state and averages."""
    kept: dict[str, int]
    """Bytes by kind, as `bytes_kept` gives them."""
    checkpoint_bytes: int
    samples: int
    """The size of the step's batch."""

    @property
    def activations(self) -> int:
        """The rest of the peak: tensors kept for backward passes, and temporary ones."""
        return max(self.peak_bytes - sum(self.kept.values()), 0)


def expected_memory(model: GenerativeModel, batch_size: int, precision: str) -> Expected:
    """Predicts the memory of a training step with all lazy penalties; in the last stage of a model that grows.

    Nothing is computed or allocated, so `model` may be built under `torch.device("meta")`. Afterwards its tensors have
    no values, but its parameters can still be counted. The step takes as many samples as `samples_per_step` says. It is
    the CPU's step, wherever the model will be trained: a GPU's tensors without storage need its driver.

    Raises ValueError if `precision` is not in `PRECISIONS`, and RuntimeError if shapes in the step depend on values.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"memory can be predicted in precision {', '.join(PRECISIONS)} only, not in {precision}")
    found = OneStep(batch_size)
    plugins: list[Any] = [] if precision == "32-true" else [_mixed(precision)]
    seen, steps = model.samples_seen, model.steps
    with _NoStorage(), torch.compiler.set_stance("force_eager"):
        _forget_values(model)
        trainer = lightning.Trainer(
            accelerator="cpu", strategy=_InPlace(CPU), plugins=plugins, callbacks=[found], **SILENT
        )
        trainer.fit(model.train(), train_dataloaders=[0])
    model.samples_seen, model.steps = seen, steps
    assert found.expected is not None
    return found.expected


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of live tensors: those in `known`, and all that operations create."""

    def __init__(self, known: Sequence[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        for tensor in known:
            self._count(tensor)

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 - torch's signature
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        made = func(*args, **(kwargs or {}))
        for each in tree_iter(made):
            if isinstance(each, Tensor):
                self._count(each)
        return made

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive:
            return
        self.now += size
        self.peak = max(self.peak, self.now)

        def gone(_: object) -> None:
            del self._alive[key]
            self.now -= size

        self._alive[key] = weakref.ref(storage, gone)


class OneStep(Callback):
    """Runs one training step when a fit starts, counts its memory, and ends the fit."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.expected: Expected | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        model = model_of(pl_module)
        model.on_load_checkpoint(state_at(model, max(model.samples_seen, model.stage_starts[-1])))
        for optimizer in trainer.optimizers:  # creates their states, as a first step would
            for group in optimizer.param_groups:
                for p in group["params"]:
                    p.grad = torch.zeros_like(p)
            optimizer.step()
            optimizer.zero_grad()
        cycle = model.work_cycle()
        dearest = max(range(len(cycle)), key=lambda number: len(cycle[number]))
        model.steps = dearest + len(cycle)  # not the first step, in which some networks initialise themselves
        batch = random_batch(model, model.samples_per_step(model.samples_seen, self.batch_size * model.micro_batches))
        kept = bytes_kept(model, list(trainer.optimizers))
        states = [s for o in trainer.optimizers for state in o.state.values() for s in state.values()]
        known = [*model.parameters(), *model.buffers(), *batch, *(s for s in states if isinstance(s, Tensor))]
        with LiveBytes(known) as live:
            run_step(trainer, model, batch)
        weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
        self.expected = Expected(live.peak, kept, weights + kept["optimizer state"], len(batch[0]))
        trainer.should_stop = True


class _NoStorage(FakeTensorMode):
    """Gives a stand-in for a value that a step reads, instead of raising an error."""

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self._operations = 0
        self._before = FakeTensorMode.cache_hits, FakeTensorMode.cache_misses

    def dispatch(
        self,
        func: Any,  # noqa: ANN401 - torch's signature
        types: Any,  # noqa: ANN401
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        if func is torch.ops.aten._local_scalar_dense.default and args[0].constant is None:
            # The step can divide by it, and every condition is true.
            kind = args[0].dtype
            return True if kind == torch.bool else 1.0 if kind.is_floating_point else 1
        self._operations += 1
        if self._operations % 500 == 0:
            # A hit in the cache of shapes halves the time of an operation. A miss adds half as much again, as in what
            # torch computes group by group.
            hits, misses = FakeTensorMode.cache_hits, FakeTensorMode.cache_misses
            self.cache_enabled = hits - self._before[0] > misses - self._before[1]
        return super().dispatch(func, types, args, kwargs or {})

    @cached_property
    def avoid_device_init(self) -> bool:
        """Checked once. Checking at each operation would take a quarter of the time."""
        return not torch.cuda.is_available()


class _InPlace(SingleDeviceStrategy):
    """Leaves the model in place: weights without storage cannot be moved."""

    def model_to_device(self) -> None: ...

    def teardown(self) -> None: ...


def _mixed(precision: str) -> MixedPrecision:
    scaler = torch.amp.GradScaler("cpu") if precision == "16-mixed" else None
    return MixedPrecision(precision, "cpu", scaler)  # type: ignore[arg-type]


def _forget_values(model: GenerativeModel) -> None:
    """Replaces every tensor of a model by one of its shape without storage. Shared tensors stay shared."""
    known: dict[int, Tensor] = {}

    def like(tensor: Tensor) -> Tensor:
        if id(tensor) not in known:
            replaced.append(tensor)
            new = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=CPU)
            known[id(tensor)] = nn.Parameter(new, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else new
        return known[id(tensor)]

    replaced: list[Tensor] = []  # kept alive, so that no id is used twice
    for module in model.modules():
        own: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for tensors in own:
            tensors.update({name: like(tensor) for name, tensor in tensors.items() if tensor is not None})
        if isinstance(module, LightningModule):
            module._device = CPU
    _forget_attributes(model, like, set())


def _forget_attributes(part: Configurable, like: Callable[[Tensor], Tensor], seen: set[int]) -> None:
    """Does the same for tensors that are plain attributes, as in augmentations, and for Configurables within."""
    seen.add(id(part))
    for name, value in list(vars(part).items()):
        if isinstance(value, Tensor):
            setattr(part, name, like(value))
        elif isinstance(value, Configurable) and id(value) not in seen:
            _forget_attributes(value, like, seen)
