"""`import`: our own networks in the authors' kind of files come back as they were, and hostile files run nothing.

The pickles have the structure of stylegan2-ada-pytorch's and R3GAN's, of classes that stand in for the authors';
none of their code or files is here. docs/exchange.md says how theirs were tried.
"""

import json
import os
import pickle
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from commands.official import r3gan as from_r3gan
from commands.official.pickles import Record, _view, read_network_pickle
from main import main
from models import load
from models.biggan import BigGAN
from models.r3gan import R3GAN
from models.stylegan2 import StyleGAN2
from models.training.checkpoint import read_checkpoint
from settings.sampling import StyleGAN2Settings
from tests.commands.conftest import Run, checkpoint, only_run, record

SIZES = {"channel_base": 64, "channel_max": 8}


def imported(path: Path, *arguments: object) -> int:
    return main(["import", str(path), "-o", str(path.parent / "x.ckpt"), *map(str, arguments)])


def varied(model: nn.Module) -> None:
    """Tensors that all differ from those a new model has."""
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(torch.rand_like(tensor) * 0.1)


# Pickles of the authors' structure.


class Pickled:
    """An object of a class that is pickled with its source: its state, and `class_name`, are all there is."""

    def __init__(self, class_name: str, **arguments: Any) -> None:  # noqa: ANN401
        self.class_name, self.source = class_name, ""
        self.state: dict[str, Any] = {
            "training": False, "_parameters": {}, "_buffers": {}, "_modules": {}, "_non_persistent_buffers_set": set(),
            "_init_args": (), "_init_kwargs": arguments, "gain": np.float64(2**0.5),
        }  # fmt: skip

    def put(self, name: str, tensor: Tensor, parameter: bool) -> None:
        """Sets a tensor by its dotted name, with the modules on the way."""
        first, _, rest = name.partition(".")
        if rest:
            self.state["_modules"].setdefault(first, Pickled("SynthesisBlock")).put(rest, tensor, parameter)
        elif parameter:
            self.state["_parameters"][first] = nn.Parameter(tensor.clone(), requires_grad=False)
        else:
            self.state["_buffers"][first] = tensor.clone()

    def __reduce__(self) -> tuple[Any, ...]:
        function = sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj
        meta = {"type": "class", "version": 6, "module_src": self.source, "class_name": self.class_name}
        return function, (sys.modules["dnnlib.util"].EasyDict({**meta, "state": self.state}),), None


@pytest.fixture(autouse=True)
def authors_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules of the names that such pickles refer to; what reads them must do without."""

    def _reconstruct_persistent_obj(meta: object) -> None:
        raise AssertionError("this is the authors' function, which must not be called")

    _reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    persistence, util = ModuleType("torch_utils.persistence"), ModuleType("dnnlib.util")
    persistence._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore[attr-defined]
    util.EasyDict = type("EasyDict", (dict,), {"__module__": "dnnlib.util"})  # type: ignore[attr-defined]
    for module in (persistence, util):
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(sys.modules, module.__name__.partition(".")[0], ModuleType("parent"))


def stylegan2(**settings: Any) -> StyleGAN2:  # noqa: ANN401
    with torch.random.fork_rng():
        torch.manual_seed(0)
        own = {"latent_dim": 6, "w_dim": 5, "mapping_layers": 2, **SIZES, **settings}
        model = StyleGAN2((3, 16, 16), own.pop("num_classes", 0), **own)
        varied(model)
    return model


def snapshot(model: StyleGAN2, **discriminator: Any) -> dict[str, Any]:  # noqa: ANN401
    """What the authors' training would have pickled of a model with these weights."""
    shape = {"c_dim": model.label_classes, "img_resolution": 16, "img_channels": 3}
    synthesis = {**SIZES, "num_fp16_res": model.low_resolutions, "conv_clamp": model.clamp}
    generators = {}
    for name, network in (("G", model.generator), ("G_ema", model.average.module)):
        generators[name] = Pickled(
            "Generator", z_dim=6, w_dim=5, **shape, mapping_kwargs={"num_layers": 2}, synthesis_kwargs=synthesis
        )
        parameters = dict(network.named_parameters())
        for ours, tensor in network.state_dict().items():
            theirs = re.sub(r"synthesis\.blocks\.(\d+)", lambda found: f"synthesis.b{4 << int(found[1])}", ours)
            theirs = theirs.replace("mapping.layers.", "mapping.fc").replace("to_rgb", "torgb")
            theirs = {"w_average": "mapping.w_avg", "synthesis.const": "synthesis.b4.const"}.get(ours, theirs)
            generators[name].put(theirs, tensor, ours in parameters)
        generators[name].put("synthesis.b8.resample_filter", filter_of(1, 3, 3, 1), False)
    critic = Pickled(
        "Discriminator", **shape, **{**synthesis, "architecture": model.architecture, **discriminator},
        epilogue_kwargs={"mbstd_group_size": model.minibatch_group},
    )  # fmt: skip
    for ours, tensor in model.discriminator.state_dict().items():
        theirs = re.sub(r"^blocks\.(\d+)", lambda found: f"b{16 >> int(found[1])}", ours)
        theirs = re.sub(r"^(conv|inner|last)\.", lambda found: "b4." + THEIRS[found[1]] + ".", theirs)
        critic.put(theirs.replace("mapping.layers.", "mapping.fc").replace("from_rgb", "b16.fromrgb"), tensor, True)
    return {"training_set_kwargs": {"path": "x.zip"}, "D": critic, "augment_pipe": None, **generators}


THEIRS = {"conv": "conv", "inner": "fc", "last": "out"}


def filter_of(*taps: float) -> Tensor:
    return torch.outer(torch.tensor(taps), torch.tensor(taps)) / sum(taps) ** 2


def write(content: object, path: Path, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize(
    "settings", [{}, {"num_classes": 3, "conditional": True, "architecture": "orig", "minibatch_group": 2}]
)
def test_a_snapshot_comes_back_as_it_was(tmp_path: Path, settings: dict[str, Any], protocol: int) -> None:
    original = stylegan2(low_resolutions=1, **settings)
    assert imported(write(snapshot(original), tmp_path / "x.pkl", protocol), "--kimg", 2.5) == 0
    model = load(tmp_path / "x.ckpt")
    assert isinstance(model, StyleGAN2)
    assert model.samples_seen == 2500
    for name, value in original.state_dict().items():
        if name != "path_length_mean":
            assert torch.equal(model.state_dict()[name], value), name
    z = original.draw_latents(range(4))
    labels = torch.arange(4) % max(original.label_classes, 1)
    for drawn in (StyleGAN2Settings(noise="const"), StyleGAN2Settings(truncation_psi=0.5, weights="raw")):
        assert torch.equal(model.decode(z, labels, settings=drawn), original.decode(z, labels, settings=drawn))
    x = torch.randn(4, 3, 16, 16)
    assert torch.equal(model.logits(x, labels), original.eval().logits(x, labels))
    for name in ("clamp", "low_resolutions", "mapping_layers", "architecture", "minibatch_group", "conditional"):
        assert getattr(model, name) == getattr(original, name)


def test_what_is_imported_is_a_checkpoint_like_any(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert imported(write(snapshot(stylegan2()), tmp_path / "x.pkl")) == 0
    assert "non-commercial" in capsys.readouterr().out
    out = tmp_path / "grid.npz"
    assert main(["sample", "--ckpt_path", str(tmp_path / "x.ckpt"), "--out", str(out), "--num", "2"]) == 0
    assert "NVlabs/stylegan2-ada-pytorch; licence: NVIDIA" in capsys.readouterr().err
    with np.load(out) as arrays:
        assert json.loads(str(arrays["protocol"]))["origin"]["file"] == "x.pkl"
    assert main(["export", "--ckpt_path", str(tmp_path / "x.ckpt"), "--out", str(tmp_path / "x.pt2")]) == 0
    capsys.readouterr()
    assert main(["info", str(tmp_path / "x.ckpt"), "--json", "--device", "cpu", "--batch_size", "4"]) == 0
    assert json.loads(capsys.readouterr().out)["origin"]["licence"].startswith("NVIDIA")  # after steps of training
    # The licence stays with what is saved from it.
    saved: dict[str, Any] = {}
    load(tmp_path / "x.ckpt").on_save_checkpoint(saved)
    assert saved["atelier"]["origin"] == read_checkpoint(tmp_path / "x.ckpt")["atelier"]["origin"]


def test_the_licence_goes_into_run_json(config: Path, fit: Run, tmp_path: Path) -> None:
    assert fit("--budget.kimg", 0.008) == 0
    content = checkpoint(only_run(config))
    content["atelier"]["origin"] = {"code": "theirs", "licence": "strict"}
    torch.save(content, tmp_path / "x.ckpt")
    assert fit("--budget.kimg", 0.016, "--ckpt_path", tmp_path / "x.ckpt", "--run.name", "on") == 0
    (folder,) = (tmp_path / "runs" / "on").iterdir()
    assert record(folder)["origin"] == checkpoint(folder)["atelier"]["origin"] == content["atelier"]["origin"]
    assert "origin" not in record(only_run(config))


def test_it_cannot_be_resumed_and_says_so(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert imported(write(snapshot(stylegan2()), tmp_path / "x.pkl")) == 0
    assert main(["fit", "--config", str(config), "--ckpt_path", str(tmp_path / "x.ckpt")]) == 2
    assert "x.ckpt has no optimizer states" in capsys.readouterr().err


def test_without_discriminator_or_raw_generator_others_take_their_places(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = snapshot(original := stylegan2())
    content["D"] = content["G"] = None
    assert imported(write(content, tmp_path / "x.pkl")) == 0
    notes = capsys.readouterr().err
    assert "no discriminator" in notes
    assert "no raw generator" in notes
    model = load(tmp_path / "x.ckpt")
    for name, value in original.average.module.state_dict().items():
        assert torch.equal(model.state_dict()[f"average.module.{name}"], value)
        assert torch.equal(model.state_dict()[f"generator.{name}"], value)


def other_filter(content: dict[str, Any]) -> None:
    content["G"].put("synthesis.b8.resample_filter", filter_of(1, 2, 2, 1), False)


def an_argument(content: dict[str, Any]) -> None:
    content["G_ema"].state["_init_kwargs"]["synthesis_kwargs"]["architecture"] = "resnet"


def by_position(content: dict[str, Any]) -> None:
    content["G_ema"].state["_init_args"] = (6,)


def less(content: dict[str, Any]) -> None:
    del content["G"].state["_modules"]["synthesis"].state["_modules"]["b8"].state["_modules"]["conv0"]


def more(content: dict[str, Any]) -> None:
    content["D"].put("b16.conv7.weight", torch.zeros(2), True)


def another_shape(content: dict[str, Any]) -> None:
    content["D"].put("b4.out.bias", torch.zeros(2), True)


def not_finite(content: dict[str, Any]) -> None:
    content["D"].put("b4.out.bias", torch.full((1,), torch.nan), True)


def a_word(content: dict[str, Any]) -> None:
    content["G_ema"].state["_init_kwargs"]["c_dim"] = "many"


def a_number(content: dict[str, Any]) -> None:
    content["G"].state["_parameters"]["weight"] = 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (other_filter, "synthesis.b8.resample_filter is not the filter [1, 3, 3, 1]"),
        (an_argument, "synthesis network has architecture = 'resnet'"),
        (by_position, "does not record its constructor arguments by name"),
        (less, "it lacks generator.synthesis.blocks.1.conv0"),
        (more, "StyleGAN2 has no discriminator.blocks.0.conv7.weight"),
        (another_shape, "discriminator.last.bias has shape (2,), not (1,)"),
        (not_finite, "discriminator.last.bias is not finite"),
        (a_word, "does not hold networks of a supported kind"),
        (a_number, "weight is a int, not a Tensor"),
        (lambda content: content.pop("G_ema"), "it has no G_ema"),
        (lambda content: content.update(D=content["G"]), "its D is not a Discriminator"),
    ],
)
def test_what_does_not_fit_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[dict[str, Any]], None], said: str
) -> None:
    content = snapshot(stylegan2())
    change(content)
    assert imported(write(content, tmp_path / "x.pkl")) == 2
    error = capsys.readouterr().err
    assert str(tmp_path / "x.pkl") in error
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "x.ckpt").exists()


def test_a_module_within_itself_is_refused() -> None:
    record = Record("Generator", {"_modules": {}})
    record.state["_modules"]["inner"] = record
    with pytest.raises(ValueError, match="contains a module twice"):
        record.state_dict()


def test_modules_shared_without_end_are_refused_at_once() -> None:
    """Forty levels of twice the same would be 2^40 names."""
    record = Record("Generator", {})
    for _ in range(40):
        record = Record("Generator", {"_modules": {"a": record, "b": record}})
    with pytest.raises(ValueError, match="contains a module twice"):
        record.state_dict()


# Hostile pickles.


@pytest.mark.parametrize(
    ("offset", "size", "stride", "said"),
    [
        (0, (3, 3), (3, 1), None),
        (2, (2, 3), (3, 1), None),
        (3, (2, 3), (4, 1), "larger than its storage"),  # beyond its end
        (0, (10**9,), (0,), "larger than its storage"),  # one number, again and again
        (0, (2,), (-1,), "impossible size"),
        (0, (2, 2), (1,), "impossible size"),
    ],
)
def test_a_tensor_lies_within_its_storage(
    offset: int, size: tuple[int, ...], stride: tuple[int, ...], said: str | None
) -> None:
    storage = torch.arange(9.0).storage()
    if said is None:
        assert torch.equal(_view(storage, offset, size, stride), torch.arange(9.0).as_strided(size, stride, offset))
        return
    with pytest.raises(ValueError, match=said):
        _view(storage, offset, size, stride)


class Calls:
    """Pickled as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:  # noqa: ANN401
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def marked(tmp_path: Path) -> str:
    return f"touch {tmp_path / 'marker'}"


def by_storage(tmp_path: Path) -> object:
    """A call inside the bytes that torch keeps a tensor's numbers in."""
    inner = pickle.dumps(Calls(os.system, marked(tmp_path)))
    return Calls(torch.storage._load_from_bytes, inner)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: {"G_ema": Calls(os.system, marked(folder))}, "system, which is not run"),
        (lambda folder: {"G_ema": {"deep": [({1: Calls(eval, "1")},)]}}, "builtins.eval, which is not run"),
        (lambda folder: {"G_ema": Calls(getattr, os, "system")}, "is not run"),
        (lambda folder: {"G_ema": by_storage(folder)}, "a tensor with damaged values, or with more than values"),
        (lambda folder: {"G_ema": Pickled("Popen")}, "class 'Popen', which is not supported"),
        (lambda folder: {"G_ema": torch.nn.ReLU()}, "torch.nn.modules.activation.ReLU, which is not run"),
        (lambda folder: {"G_ema": torch.nn.Linear(2, 2)}, "its G_ema is not a Generator"),
        (lambda folder: [1, 2], "holds a list"),
        (lambda folder: {"G_ema": 3}, "its G_ema is not a Generator"),
    ],
)
def test_hostile_pickles_are_refused_by_name_and_run_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path], object], said: str
) -> None:
    content = make(tmp_path)
    try:
        write(content, tmp_path / "x.pkl")
    except TypeError:  # a module cannot be pickled: by its opcodes, then
        (tmp_path / "x.pkl").write_bytes(b"cbuiltins\ngetattr\n(cos\nsystem\nVx\ntR.")
    assert imported(tmp_path / "x.pkl") == 2
    error = capsys.readouterr().err
    assert said in error
    assert str(tmp_path / "x.pkl") in error
    assert error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.pkl"]


def by_name(module: str, name: str) -> bytes:
    """A pickle of a global, whose name may have dots since protocol 4."""
    words = (b"\x8c" + bytes([len(word)]) + word.encode() for word in (module, name))
    return b"\x80\x04" + b"".join(words) + b"\x93."


@pytest.mark.parametrize(
    ("program", "name"),
    [
        (by_name("torch", "os.system"), "torch.os.system"),
        (by_name("torch.storage", "_load_from_bytes.__call__"), "torch.storage._load_from_bytes.__call__"),
        (by_name("collections", "OrderedDict.fromkeys"), "collections.OrderedDict.fromkeys"),
        (b"cos\nsystem\n.", "os.system"),
        (b"(ios\nsystem\n.", "os.system"),
        (b"(Vx\ncsubprocess\nPopen\no.", "subprocess.Popen"),
    ],
)
def test_names_within_names_are_not_followed(tmp_path: Path, program: bytes, name: str) -> None:
    (tmp_path / "x.pkl").write_bytes(program)
    with pytest.raises(ValueError, match=re.escape(name)):
        read_network_pickle(tmp_path / "x.pkl", ())


def test_the_source_that_a_record_brings_is_never_run(tmp_path: Path) -> None:
    """It is in every record of an honest file; in this one it would leave a marker if it were run."""
    content = snapshot(original := stylegan2())
    for name in ("G", "D", "G_ema"):
        content[name].source = f"import os\nos.system({marked(tmp_path)!r})\nclass Generator: pass\n"
    assert imported(write(content, tmp_path / "x.pkl")) == 0
    assert not (tmp_path / "marker").exists()
    assert torch.equal(load(tmp_path / "x.ckpt").state_dict()["generator.w_average"], original.generator.w_average)


def test_a_pickle_cannot_change_what_it_calls(tmp_path: Path) -> None:
    # An attribute set, by BUILD with (None, {name: value}), on the function and on the class.
    for target in (b"ctorch.storage\n_load_from_bytes\n", b"ccollections\nOrderedDict\n"):
        (tmp_path / "x.pkl").write_bytes(target + b"(N(dV_call\nNstb.")
        with pytest.raises(ValueError, match="cannot be read as a pickle"):
            read_network_pickle(tmp_path / "x.pkl", ())


def test_a_tensor_stays_within_its_storage(tmp_path: Path) -> None:
    tensor = torch.arange(4.0)
    call = list(tensor.__reduce_ex__(2))
    assert call[0] is torch._utils._rebuild_tensor_v2
    for size, stride, offset in (((5,), (1,), 0), ((4,), (1,), 1), ((2,), (4,), 0), ((2,), (-1,), 1)):
        arguments = (call[1][0], offset, size, stride, *call[1][4:])
        write({"x": Calls(torch._utils._rebuild_tensor_v2, *arguments)}, tmp_path / "x.pkl")
        with pytest.raises(ValueError, match="tensor"):
            read_network_pickle(tmp_path / "x.pkl", ())
    write({"x": tensor[1:3]}, tmp_path / "x.pkl")
    assert torch.equal(read_network_pickle(tmp_path / "x.pkl", ())["x"], torch.tensor([1.0, 2.0]))


def test_a_damaged_pickle_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = pickle.dumps(snapshot(stylegan2()))
    for content in (b"", b"hello", whole[: len(whole) // 2]):
        (tmp_path / "x.pkl").write_bytes(content)
        assert imported(tmp_path / "x.pkl") == 2
        error = capsys.readouterr().err
        assert "cannot" in error or "can be read" in error
        assert error.count("\n") == 1


# R3GAN's pickles: of ordinary classes, by their modules' names, with their state and without source or arguments.


@pytest.fixture(autouse=True)
def r3gan_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules with the classes that R3GAN's pickles refer to, which whoever reads them must not make."""
    for name in from_r3gan.CLASSES:
        module, _, own = name.rpartition(".")
        if module.startswith("torch."):
            continue
        for parent in (module.partition(".")[0], module):
            if parent not in sys.modules:
                monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
        setattr(sys.modules[module], own, type(own, (nn.Module,), {"__module__": module, "__setstate__": refused}))


def refused(self: object, state: object) -> None:
    raise AssertionError("this is the authors' class, which must not be made")


def theirs(name: str, **parts: Any) -> nn.Module:  # noqa: ANN401
    """A module of one of their classes, with these parts, parameters and attributes."""
    module, _, own = name.rpartition(".")
    made: nn.Module = getattr(sys.modules[module or "R3GAN.Networks"], own)()
    for part, value in parts.items():
        if part == "Kernel":
            made.register_buffer(part, value)
        else:
            setattr(made, part, nn.Parameter(value.clone(), requires_grad=False) if type(value) is Tensor else value)
    return made.eval()


def layer(weight: Tensor, groups: int = 1) -> nn.Module:
    """torch's linear layer or convolution."""
    made: nn.Module
    if weight.dim() == 2:
        made = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    else:
        made = nn.Conv2d(weight.shape[1] * groups, weight.shape[0], weight.shape[2], groups=groups, bias=False)
    made.weight = nn.Parameter(weight.clone(), requires_grad=False)
    return made


def block(state: dict[str, Tensor], at: str) -> nn.Module:
    conv = {i: state[f"{at}.conv{i}.weight"] for i in (1, 2, 3)}
    groups = conv[2].shape[0] // conv[2].shape[1]
    return theirs(
        "ResidualBlock",
        **{f"LinearLayer{i}": theirs("Convolution", Layer=layer(conv[i], groups if i == 2 else 1)) for i in conv},
        **{
            f"NonLinearity{i}": theirs("R3GAN.FusedOperators.BiasedActivationCUDA", Bias=state[f"{at}.conv{i}.bias"])
            for i in (1, 2)
        },
    )


def resampling(kind: str, state: dict[str, Tensor], at: str) -> nn.Module:
    parts = {"LinearLayer": theirs("Convolution", Layer=layer(state[at]))} if at in state else {}
    resampler = theirs(f"R3GAN.Resamplers.Interpolative{kind}rCUDA", Kernel=filter_of(1, 3, 3, 1))
    return theirs(f"{kind}Layer", Resampler=resampler, **parts)


def r3gan(**settings: Any) -> R3GAN:  # noqa: ANN401
    with torch.random.fork_rng():
        torch.manual_seed(0)
        own = {"widths": [8, 8, 4], "groups": [2, 4, 1], "latent_dim": 6, "low_resolutions": 1, **settings}
        model = R3GAN((3, 16, 16), own.pop("num_classes", 0), **own)
        varied(model)
    return model


def r3gan_snapshot(model: R3GAN) -> dict[str, Any]:
    """What the authors' training would have pickled of a model with these weights."""
    count, blocks, classes = len(model.widths), range(model.blocks), model.label_classes
    formats = [torch.bfloat16 if count - i <= model.low_resolutions else torch.float32 for i in range(count)]
    content: dict[str, Any] = {}
    for name, network in (("G", model.generator), ("G_ema", model.average.module)):
        state = network.state_dict()
        first = theirs("GenerativeBasis", Basis=state["basis"], LinearLayer=layer(state["linear.weight"]))
        stages = []
        for i, data_type in enumerate(formats):
            changing = resampling("Upsample", state, f"resize.{i - 1}.weight") if i else first
            layers = [changing, *(block(state, f"stages.{i}.{j}") for j in blocks)]
            stages.append(theirs("GeneratorStage", Layers=nn.ModuleList(layers), DataType=data_type))
        parts = {"EmbeddingLayer": layer(state["embed.weight"])} if classes else {}
        last = theirs("Convolution", Layer=layer(state["to_rgb.weight"]))
        inner = theirs("Generator", MainLayers=nn.ModuleList(stages), AggregationLayer=last, **parts)
        content[name] = theirs("training.networks.Generator", Model=inner, z_dim=6, c_dim=classes, img_resolution=16)
    state, stages = model.discriminator.state_dict(), []
    basis = layer(state["basis.weight"], state["basis.weight"].shape[0])
    last = theirs("DiscriminativeBasis", Basis=basis, LinearLayer=layer(state["linear.weight"]))
    for i, data_type in enumerate(reversed(formats)):
        changing = resampling("Downsample", state, f"resize.{i}.weight") if i < count - 1 else last
        layers = [*(block(state, f"stages.{i}.{j}") for j in blocks), changing]
        stages.append(theirs("DiscriminatorStage", Layers=nn.ModuleList(layers), DataType=data_type))
    parts = {"EmbeddingLayer": layer(state["embed.weight"])} if classes else {}
    first = theirs("Convolution", Layer=layer(state["from_rgb.weight"]))
    inner = theirs("Discriminator", MainLayers=nn.ModuleList(stages), ExtractionLayer=first, **parts)
    content["D"] = theirs("training.networks.Discriminator", Model=inner)
    moments = {"step": torch.tensor(3.0), "exp_avg": torch.zeros(2)}
    optimizer = {"state": {0: moments}, "param_groups": [{"lr": np.float64(2e-4), "betas": (0, 0.9), "params": [0]}]}
    return {**content, "training_set_kwargs": {"path": "x.zip"}, "cur_nimg": 1536, "G_opt_state": optimizer}


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_classes": 3, "conditional": True, "blocks": 1, "low_resolutions": 2, "expansion": 3},
        {"widths": [8, 4, 4], "groups": [4, 2, 8], "low_resolutions": 0},
    ],
    ids=["own", "conditional", "widths"],
)
def test_a_snapshot_of_r3gan_comes_back_as_it_was(tmp_path: Path, settings: dict[str, Any], protocol: int) -> None:
    original = r3gan(**settings)
    assert imported(write(r3gan_snapshot(original), tmp_path / "x.pkl", protocol)) == 0
    model = load(tmp_path / "x.ckpt")
    assert isinstance(model, R3GAN)
    assert model.samples_seen == 1536
    assert model.state_dict().keys() == original.state_dict().keys()
    for name, value in original.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    for name in ("widths", "groups", "blocks", "expansion", "latent_dim", "conditional", "low_resolutions"):
        assert getattr(model, name) == getattr(original, name), name
    z, labels = original.draw_latents(range(4)), torch.arange(4) % max(original.label_classes, 1)
    for weights in ("ema", "raw"):
        drawn = original.settings_class(weights=weights)  # type: ignore[arg-type]
        assert torch.equal(model.decode(z, labels, settings=drawn), original.decode(z, labels, settings=drawn))
    x = torch.randn(4, 3, 16, 16)
    assert torch.equal(model.logits(x, labels), original.eval().logits(x, labels))
    assert model.origin is not None
    assert model.origin["code"] == "brownvc/R3GAN"
    assert model.origin["licence"].startswith("none stated")


def test_kimg_that_is_given_wins_over_the_recorded(tmp_path: Path) -> None:
    assert imported(write(r3gan_snapshot(r3gan()), tmp_path / "x.pkl"), "--kimg", "0") == 0
    assert load(tmp_path / "x.ckpt").samples_seen == 0


def test_formats_that_are_not_ours_are_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for network, stage in (("G_ema", 0), ("D", 2)):
        content = r3gan_snapshot(original := r3gan())
        content[network].Model.MainLayers[stage].DataType = torch.bfloat16
        assert imported(write(content, tmp_path / "x.pkl")) == 0
        assert "16 bits were not used at exactly the highest resolutions" in capsys.readouterr().err
        model = load(tmp_path / "x.ckpt")
        assert isinstance(model, R3GAN)
        assert model.low_resolutions == 0
        assert torch.equal(model.average.module.basis, original.average.module.basis)  # type: ignore[arg-type]


def r3gan_filter(content: dict[str, Any]) -> None:
    content["G_ema"].Model.MainLayers[1].Layers[0].Resampler.Kernel = filter_of(1, 2, 2, 1)


def uneven(content: dict[str, Any]) -> None:
    del content["G_ema"].Model.MainLayers[1].Layers[2]


def without_block(content: dict[str, Any]) -> None:
    del content["G"].Model.MainLayers[1].Layers[2]


def without_picture(content: dict[str, Any]) -> None:
    del content["G_ema"].Model.AggregationLayer


def another_layer(content: dict[str, Any]) -> None:
    content["D"].Model.MainLayers[0].Layers[0].Extra = nn.Linear(2, 2)


def a_wide_kernel(content: dict[str, Any]) -> None:
    convolution = content["G"].Model.MainLayers[0].Layers[1].LinearLayer2
    convolution.Layer = layer(torch.zeros(16, 8, 5, 5), 2)


def r3gan_nan(content: dict[str, Any]) -> None:
    content["D"].Model.ExtractionLayer.Layer.weight.data.fill_(torch.nan)


def another_activation(content: dict[str, Any]) -> None:
    content["D"].Model.MainLayers[0].Layers[0].NonLinearity1 = nn.GELU()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (r3gan_filter, "Layers.0.Resampler.Kernel is not the filter [1, 3, 3, 1]"),
        (uneven, "its generator has [1, 2] residual blocks per resolution"),
        (without_block, "it lacks generator.stages.1.1.conv1"),
        (without_picture, "its generator has no counterpart of our to_rgb.weight"),
        (another_layer, "R3GAN has no discriminator.stages.0.0.Extra.bias; 2 of the file's tensors do not fit"),
        (a_wide_kernel, "generator.stages.0.0.conv2.weight has shape (16, 8, 5, 5), not (16, 8, 3, 3)"),
        (r3gan_nan, "discriminator.from_rgb.weight is not finite"),
        (another_activation, "it asks for torch.nn.modules.activation.GELU, which is not run"),
        (lambda content: content.update(D=content["G"]), "its D is not a training.networks.Discriminator"),
        (lambda content: content.update(G=3), "its G is not a training.networks.Generator"),
        (lambda content: content.update(G=Pickled("Generator")), "its G is not a training.networks.Generator"),
        (lambda content: content.update(G_ema=None), "it has no G_ema"),
    ],
)
def test_what_does_not_fit_r3gan_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[dict[str, Any]], None], said: str
) -> None:
    content = r3gan_snapshot(r3gan())
    change(content)
    assert imported(write(content, tmp_path / "x.pkl")) == 2
    error = capsys.readouterr().err
    assert str(tmp_path / "x.pkl") in error
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "x.ckpt").exists()


def test_classes_by_name_are_records_and_not_the_classes(tmp_path: Path) -> None:
    """Neither torch's own classes nor those that a module of that name has: their `__setstate__` could run anything."""
    write({"a": nn.Linear(2, 3), "b": theirs(from_r3gan.GENERATOR, z_dim=4)}, tmp_path / "x.pkl")
    content = read_network_pickle(tmp_path / "x.pkl", (), from_r3gan.CLASSES)
    assert all(isinstance(value, Record) and not isinstance(value, nn.Module) for value in content.values())
    assert content["a"].class_name == "torch.nn.modules.linear.Linear"
    assert content["a"].state_dict().keys() == {"weight", "bias"}
    assert content["b"].state["z_dim"] == 4
    with pytest.raises(ValueError, match=r"torch\.nn\.modules\.linear\.Linear, which is not run"):
        read_network_pickle(tmp_path / "x.pkl", ())


@pytest.mark.parametrize(
    "program",
    [
        b"ctraining.networks\nGenerator\n(Vos\nVsystem\ntR.",  # called with arguments
        b"ctraining.networks\nGenerator\n)\x81Vstate\nb.",  # a state that is a word
        b"ctraining.networks\nGenerator\n)\x81(N(dV__class__\nNstb.",  # or sets attributes by slots
        b"ctraining.networks\nGenerator\n(N(dVqualified\nNstb.",  # attributes set on the class
        b"ctorch\nfloat32\n(N(dVitemsize\nI9\nstb.",  # and on torch's own
        b"ctorch\nload\n(Vx.pt\ntR.",
        b"ctorch.nn.modules.linear\ntorch\n.",
    ],
)
def test_classes_by_name_can_only_be_made_and_given_a_state(tmp_path: Path, program: bytes) -> None:
    (tmp_path / "x.pkl").write_bytes(b"\x80\x02" + program)
    with pytest.raises(ValueError, match="cannot be read as a pickle"):
        read_network_pickle(tmp_path / "x.pkl", (), from_r3gan.CLASSES)
    assert torch.float32.itemsize == 4


# BigGAN-PyTorch's state dicts.


def biggan(**settings: Any) -> BigGAN:  # noqa: ANN401
    with torch.random.fork_rng():
        torch.manual_seed(0)
        own = {"width": 2, "latent_dim": 12, "initialization": "normal", **settings}
        model = BigGAN((3, (side := own.pop("side", 32)), side), 3, **own)
        varied(model)
    return model.eval()


def official(network: nn.Module, generator: bool) -> dict[str, Tensor]:
    """A network's tensors under BigGAN-PyTorch's names."""
    state = {}
    for name, value in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        if generator:
            name = re.sub(r"^norm\.", "output_layer.0.", re.sub(r"^conv\.", "output_layer.2.", name))
            name = re.sub(r"^(output_layer\.0)\.weight", r"\1.gain", re.sub(r"^embedding\.", "shared.", name))
            name = re.sub(r"\.norm([12])\.(norm\.)?", r".bn\1.", name)
            name = name.replace("running_", "stored_")
        name = name.replace(".shortcut.", ".conv_sc.")
        name = name.replace(".attention.project.", ".").replace(".attention.out.", ".o.")
        state[f"{name}0" if name.endswith(".u") else name] = value[None] if name.endswith(".u") else value
        if name.endswith(".u"):
            state[name.removesuffix("u") + "sv0"] = torch.ones(1)
    return state


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"shared_dim": 5, "hierarchical": True, "d_width": 3},
        {"shared_dim": 5, "side": 64, "attention": [32], "width": 8, "d_width": 8},
    ],
    ids=["own", "hierarchical", "attention"],
)
def test_weights_of_biggan_come_back_as_they_were(tmp_path: Path, settings: dict[str, Any], suffix: str) -> None:
    original = biggan(**settings)
    networks = {"G": original.generator, "G_ema": original.average.module, "D": original.discriminator}
    for name, network in networks.items():
        state, path = official(network, name != "D"), tmp_path / f"{name}_best0{suffix}"
        if suffix == ".pth":
            torch.save(state, path)
        else:
            pytest.importorskip("safetensors.torch").save_file(
                {key: value.contiguous() for key, value in state.items()}, path
            )
    assert imported(tmp_path / f"G_ema_best0{suffix}") == 0
    model = load(tmp_path / "x.ckpt")
    assert isinstance(model, BigGAN)
    assert model.origin is not None
    assert model.origin["licence"].startswith("MIT")
    z, labels = original.draw_latents(range(4)), torch.tensor([0, 1, 2, 0])
    for weights in ("ema", "raw"):
        drawn = original.settings_class(weights=weights)  # type: ignore[arg-type]
        assert torch.equal(model.decode(z, labels, settings=drawn), original.decode(z, labels, settings=drawn))
    x = torch.randn(2, *original.data_shape)
    assert torch.equal(model.logits(x, labels[:2]), original.logits(x, labels[:2]))


def test_files_of_biggan_that_are_missing_or_wrong_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = official(biggan().generator, True)
    torch.save(state, tmp_path / "G.pth")
    assert imported(tmp_path / "G.pth") == 0
    notes = capsys.readouterr().err
    assert "there is no G_ema.pth" in notes
    assert "there is no D.pth" in notes
    (tmp_path / "x.ckpt").unlink()

    wrong: dict[str, object] = {
        "linear.weight": {name: value for name, value in state.items() if name != "linear.weight"},
        "does not hold networks of a supported kind": {**state, "linear.weight": torch.ones(3)},
        "u1": {**state, "linear.u1": torch.ones(1, 4)},
        "the tensors of one network alone": {"state": 3},
        "holds more than tensors": {"x": Calls(os.system, marked(tmp_path))},
    }
    for said, content in wrong.items():
        torch.save(content, tmp_path / "G.pth")
        assert imported(tmp_path / "G.pth") == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
        assert sorted(path.name for path in tmp_path.iterdir()) == ["G.pth"]


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("x.h5", [], "does not end in .pkl, .pth, .safetensors"),
        ("weights.pth", [], "weights.pth is not called G.pth or G_ema.pth"),
        ("missing.pkl", [], "no file to import at"),
        ("x.pkl", ["--kimg", "-1"], "--kimg must not be -1"),
        ("x.pkl", ["--out", "x.pt"], "name a file ending in .ckpt"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, arguments: list[str], said: str
) -> None:
    if "missing" not in name:
        (tmp_path / name).write_bytes(b"x")
    assert imported(tmp_path / name, *arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
