"""`export`: the averaged generator in a file that works without Atelier.

The formats are safetensors, TorchScript, torch.export and ONNX. Each writer returns the whole file as bytes, and a
function that runs the reopened file. The file is written only if its pictures match the model's own.
"""

import argparse
import dataclasses
import importlib.util
import io
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from commands.options.parsers import checkpoint_parser, parsed, require_suffix
from commands.options.sampler import add_settings, settings_of
from settings.sampling import offered

if TYPE_CHECKING:
    from torch import Tensor, nn

    from models.training.base import GenerativeModel
    from settings.sampling import SamplerSettings

TOLERANCE = 1e-3
"""Pictures in [-1, 1] may differ by this, an eighth of a step of 8 bits."""

Inputs: TypeAlias = "tuple[Tensor, ...]"
"""Latents (N, latent_dim), and labels (N,) if the model has classes."""

Sampler: TypeAlias = "Callable[[Inputs], Tensor]"
"""A reopened file: inputs to pictures (N, C, H, W)."""

Written: TypeAlias = tuple[bytes, Sampler]

OF_NETWORKS = ("truncation_psi", "truncation_cutoff", "noise")
"""Sampler settings that change what a network computes. The others, such as truncation, concern the inputs."""

NEEDS = {".safetensors": ("safetensors",), ".onnx": ("onnx", "onnxscript", "onnxruntime")}


def parser() -> argparse.ArgumentParser:
    parser = checkpoint_parser(
        "export",
        "Writes the averaged generator: latents float32 (N, latent_dim), and labels int64 (N,) if it has classes, "
        "to pictures float32 (N, C, H, W) in [-1, 1], for any N.",
    )
    parser.set_defaults(weights="ema", precision="float32", device="cpu")
    parser.add_argument(
        "--out", required=True, type=Path,
        help="x.onnx, x.pt2 (torch.export), x.pt (TorchScript), or x.safetensors (weights alone)",
    )  # fmt: skip
    add_settings(parser, [setting for setting in offered() if setting.name in OF_NETWORKS])
    return parser


def run(arguments: Sequence[str]) -> int:
    """Converts, compares and writes; prints the file and the largest difference."""
    options = parsed(parser(), arguments)
    require_suffix("out", options.out, list(WRITERS))
    packages = NEEDS.get(options.out.suffix, ())
    if missing := [package for package in packages if importlib.util.find_spec(package) is None]:
        raise ModuleNotFoundError(f"this format needs {', '.join(missing)}: pip install -e '.[export]'")

    from commands.options.checkpoints import loaded
    from media.files import write_whole
    from models.training.capabilities import Deployable

    model, path = loaded(options)
    if not isinstance(model, Deployable):
        raise ValueError(
            f"{path}: a {type(model).__name__} does not map latents to pictures by one network, as export needs"
        )
    settings = settings_of(model, options, still_noise=True)
    if options.out.suffix == ".safetensors":
        for name in OF_NETWORKS:
            if getattr(options, name) is not None:
                raise ValueError(f"--{name} does not apply to {options.out}, which holds weights alone")
    network = model.deployed(settings)
    write = WRITERS[options.out.suffix]
    content, reopened = write(network, example(model, 2), metadata(model, settings, path))
    difference = largest_difference(model, settings, reopened)
    if not difference <= TOLERANCE:  # NaN is refused too
        raise ValueError(
            f"--out {options.out} is not written: its pictures differ from the model's by {difference:.2g}"
        )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(options.out, lambda file: file.write(content))
    print(f"{options.out}  largest difference from the model's pictures: {difference:.1g}")
    return 0


def metadata(model: "GenerativeModel", settings: "SamplerSettings", checkpoint: Path) -> dict[str, str]:
    """The file's metadata, each value as JSON."""
    facts = {
        "checkpoint": checkpoint.name,
        "model": type(model).__name__,
        "samples_seen": model.samples_seen,
        "settings": dataclasses.asdict(settings),
        "latent_dim": example(model, 1)[0].shape[1],
        "classes": model.label_classes,
        "data_shape": list(model.data_shape),
        "data_range": [-1, 1],
        "origin": model.origin,
    }
    return {name: json.dumps(value) for name, value in facts.items()}


def example(model: "GenerativeModel", count: int) -> Inputs:
    """`count` inputs as the model's own sampling draws them, on the CPU."""
    from models.training.capabilities import HasLatents

    if not isinstance(model, HasLatents):
        raise ValueError(f"a {type(model).__name__} has no latents, which an exported network takes")
    indices = range(count)
    latents = model.draw_latents(indices).float()
    return (latents, model.sample_labels(indices)) if model.label_classes else (latents,)


def largest_difference(model: "GenerativeModel", settings: "SamplerSettings", sampler: Sampler) -> float:
    """The largest difference between the file's and the model's pictures, in batches of 1 and of 3."""
    from models.training.capabilities import HasLatents

    assert isinstance(model, HasLatents)
    found = []
    for count in (1, 3):
        inputs = example(model, count)
        theirs, ours = sampler(inputs), model.decode(*inputs, settings=settings)
        if theirs.shape != ours.shape:
            raise ValueError(f"its pictures have shape {tuple(theirs.shape)}, not {tuple(ours.shape)}")
        found.append(float((theirs - ours).abs().max()))
    return max(found)


# The formats.


def safetensors(network: "nn.Module", inputs: Inputs, facts: dict[str, str]) -> Written:
    """The weights, named as in the family's generator. The file contains no code."""
    import copy

    from safetensors.torch import load, save

    content = save({name: value.contiguous() for name, value in network.state_dict().items()}, facts)
    reopened = copy.deepcopy(network)
    for value in reopened.state_dict().values():
        value.zero_()  # so that the weights come from the file alone
    reopened.load_state_dict(load(content))
    return content, lambda inputs: reopened(*inputs)


def torchscript(network: "nn.Module", inputs: Inputs, facts: dict[str, str]) -> Written:
    """A traced module, for `torch.jit.load` and libtorch."""
    import torch

    buffer = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates TorchScript, and its tracer warns about checked shapes
        torch.jit.save(torch.jit.trace(network, inputs, check_trace=False), buffer, facts)
        content = buffer.getvalue()
        reopened = torch.jit.load(io.BytesIO(content))
    return content, lambda inputs: reopened(*inputs)


def exported_program(network: "nn.Module", inputs: Inputs, facts: dict[str, str]) -> Written:
    """A graph of torch operators, for `torch.export.load(path).module()`."""
    import torch

    buffer = io.BytesIO()
    torch.export.save(traced(network, inputs), buffer, extra_files=facts)
    content = buffer.getvalue()
    reopened = torch.export.load(io.BytesIO(content)).module()
    return content, lambda inputs: reopened(*inputs)


def onnx(network: "nn.Module", inputs: Inputs, facts: dict[str, str]) -> Written:
    """An ONNX model with inputs `z` and `labels`, an output `samples`, and any batch size."""
    import onnxruntime
    import torch

    names = ["z", "labels"][: len(inputs)]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter warns about itself
        program = torch.onnx.export(
            traced(network, inputs), inputs, dynamo=True, input_names=names, output_names=["samples"], verbose=False
        )
    assert program is not None
    program.model.metadata_props.update(facts)
    content = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def sample(inputs: Inputs) -> "Tensor":
        feed = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
        return torch.from_numpy(session.run(["samples"], feed)[0])

    return content, sample


def traced(network: "nn.Module", inputs: Inputs) -> Any:  # noqa: ANN401 - a torch.export.ExportedProgram
    """The graph of a network for any batch size."""
    import torch

    batch = torch.export.Dim("batch")
    dynamic = {name: {0: batch} for name, _ in zip(("z", "labels"), inputs, strict=False)}
    with torch.no_grad():
        return torch.export.export(network, inputs, dynamic_shapes=dynamic)


WRITERS: dict[str, Callable[["nn.Module", Inputs, dict[str, str]], Written]] = {
    ".safetensors": safetensors,
    ".pt": torchscript,
    ".pt2": exported_program,
    ".onnx": onnx,
}
