import copy
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from models import load
from models.dcgan import DCGAN
from models.parts.losses import Hinge
from models.parts.regularizers import R1
from models.parts.schedules import Linear
from models.r3gan import R3GAN
from models.training.checkpoint import CHECKPOINT_FORMAT, read_checkpoint
from models.training.gan import GAN
from settings.configurable import describe
from settings.training import AdversarialTraining


@pytest.fixture(scope="module")
def trained(fit: Callable[..., Any], batches: Callable[..., Any]) -> tuple[DCGAN, Any]:
    """A conditional DCGAN after two steps, and its trainer."""
    torch.manual_seed(0)
    adversarial = AdversarialTraining(Hinge(), [R1(Linear(1.0, 0.5, kimg=1.0), every=2)], lr=1e-3)
    model = DCGAN((3, 16, 16), num_classes=4, width=8, latent_dim=8, conditional=True, adversarial=adversarial)
    return model, fit(model, batches(2, 6, (3, 16, 16), classes=4))


@pytest.fixture(scope="module")
def original(trained: tuple[DCGAN, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("original") / "last.ckpt"
    trained[1].save_checkpoint(path)
    return path


@pytest.fixture
def checkpoint(original: Path, tmp_path: Path) -> Path:
    """The model's checkpoint, to be damaged at will."""
    return Path(shutil.copy(original, tmp_path))


def refusal(path: Path) -> str:
    """What `load` says to a file; one line that names it."""
    with pytest.raises(ValueError, match=r"last\.ckpt") as caught:
        load(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert "\x1b" not in message
    return message


def rewrite(path: Path, **own: object) -> None:
    """Replaces fields of Atelier's own in a checkpoint."""
    content = torch.load(path, weights_only=True)
    content["atelier"].update(own)
    torch.save(content, path)


def test_loaded_model_draws_the_same_samples(trained: tuple[DCGAN, Any], checkpoint: Path) -> None:
    model, loaded = trained[0], load(checkpoint)
    assert torch.equal(loaded.sample(range(5), seed=3), model.sample(range(5), seed=3))


def test_loaded_model_is_the_saved_one(trained: tuple[DCGAN, Any], checkpoint: Path) -> None:
    model, loaded = trained[0], load(checkpoint)
    assert describe(loaded) == describe(model)
    assert (loaded.samples_seen, loaded.steps, loaded.training_seed) == (12, 2, 7)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


def test_loaded_model_is_in_evaluation_mode(checkpoint: Path) -> None:
    assert not any(module.training for module in load(checkpoint).modules())


def test_a_string_is_a_path_too(checkpoint: Path) -> None:
    assert isinstance(load(str(checkpoint)), GAN)


def test_a_checkpoint_holds_both_optimizers(checkpoint: Path) -> None:
    assert len(read_checkpoint(checkpoint)["optimizer_states"]) == 2


def test_a_resumed_fit_goes_on_where_the_first_stopped(
    toy_gan: Callable[..., GAN], fit: Callable[..., Any], batches: Callable[..., Any], tmp_path: Path
) -> None:
    data = batches(4, 6)
    settings: dict[str, Any] = {"regularizers": [R1(1.0, every=3)], "lr": Linear(1e-2, 0.0, kimg=0.05)}
    whole = toy_gan(**settings)
    fit(whole, data)

    path = tmp_path / "last.ckpt"
    fit(toy_gan(**settings), data[:2]).save_checkpoint(path)
    resumed = toy_gan(**settings)
    # Lightning goes on within the epoch, and ends it after as many batches as the loader has in all.
    trainer = fit(resumed, [*data[2:], *data[:2]], ckpt_path=path, max_steps=4, max_epochs=-1)
    assert (trainer.global_step, resumed.steps, resumed.samples_seen) == (4, 4, 24)
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^no checkpoint at .*nothing\.ckpt$"):
        load(tmp_path / "nothing.ckpt")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_truncated_file_is_refused(checkpoint: Path, share: float) -> None:
    data = checkpoint.read_bytes()
    checkpoint.write_bytes(data[: int(len(data) * share)])
    assert "is not a checkpoint that can be read: " in refusal(checkpoint)


@pytest.mark.parametrize(
    "content", [b"hello\n", b"\x80\x02.", b"\x80\x02]q\x00a.", b"\x80\x02h\xd8.", bytes(range(256))]
)
def test_bytes_of_any_other_kind_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "last.ckpt"
    path.write_bytes(content)
    assert "is not a checkpoint that can be read: " in refusal(path)


class Hostile:
    """Unpickling it creates a folder."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return Path.mkdir, (self.trace,)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_refused_and_not_run(checkpoint: Path, zipped: bool) -> None:
    trace = checkpoint.parent / "trace"
    content = torch.load(checkpoint, weights_only=True)
    content["hostile"] = Hostile(trace)
    if zipped:
        torch.save(content, checkpoint)
    else:
        checkpoint.write_bytes(pickle.dumps({"atelier": content["atelier"], "hostile": Hostile(trace)}, protocol=2))
    assert refusal(checkpoint).endswith("it is damaged, or holds more than tensors and plain types")
    assert not trace.exists()
    pickle.loads(pickle.dumps(Hostile(trace)))  # what it would have done
    assert trace.exists()


def test_another_format_is_refused(checkpoint: Path) -> None:
    rewrite(checkpoint, format=CHECKPOINT_FORMAT + 1)
    assert refusal(checkpoint).endswith("it has format 4, this version reads 3")


@pytest.mark.parametrize("content", [[1], torch.zeros(2), {"state_dict": {}}, {"atelier": 3}])
def test_files_of_others_are_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "last.ckpt")
    assert refusal(tmp_path / "last.ckpt").endswith("it was not written by Atelier")


@pytest.mark.parametrize("field", ["format", "model", "samples_seen", "steps", "training_seed"])
def test_missing_fields_are_refused(checkpoint: Path, field: str) -> None:
    content = torch.load(checkpoint, weights_only=True)
    del content["atelier"][field]
    torch.save(content, checkpoint)
    assert field in refusal(checkpoint)


@pytest.mark.parametrize(
    ("class_path", "reason"),
    [
        ("models.dcgan.DCGAM", "cannot be imported"),
        ("models.nothing.DCGAN", "cannot be imported"),
        ("torch.nn.Linear", "is not a Configurable"),
        ("os.system", "is not a Configurable"),
        ("models.parts.losses.Hinge", "Hinge"),
    ],
)
def test_wrong_class_path_is_refused(checkpoint: Path, class_path: str, reason: str) -> None:
    own = copy.deepcopy(torch.load(checkpoint, weights_only=True)["atelier"]["model"])
    own["class_path"] = class_path
    rewrite(checkpoint, model=own)
    assert reason in refusal(checkpoint)


def test_a_part_that_is_no_model_is_refused(checkpoint: Path) -> None:
    rewrite(checkpoint, model=describe(Hinge()))
    assert refusal(checkpoint).endswith("it describes a Hinge, which is not a model")


@pytest.mark.parametrize("change", [{"width": 16}, {"data_shape": [3, 32, 32]}])
def test_weights_that_do_not_fit_the_description_are_refused(checkpoint: Path, change: dict[str, Any]) -> None:
    description = torch.load(checkpoint, weights_only=True)["atelier"]["model"]
    description["init_args"].update(change)
    rewrite(checkpoint, model=description)
    assert "its weights do not fit the model that it describes" in refusal(checkpoint)


def test_missing_weights_are_refused(checkpoint: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    del content["state_dict"]
    torch.save(content, checkpoint)
    assert "its weights do not fit" in refusal(checkpoint)


def test_weights_that_had_other_names_are_found(tmp_path: Path) -> None:
    """Format 2 called to_rgb and from_rgb otherwise; nothing else of it has changed."""
    torch.manual_seed(0)
    model = R3GAN((3, 16, 16), widths=(8, 8, 8), groups=(2, 2, 2), latent_dim=4)
    checkpoint: dict[str, Any] = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(checkpoint)
    earlier = {key.replace("to_rgb", "to_picture").replace("from_rgb", "from_picture"): value
               for key, value in checkpoint["state_dict"].items()}  # fmt: skip
    assert earlier.keys() != checkpoint["state_dict"].keys()
    torch.save({"atelier": {**checkpoint["atelier"], "format": 2}, "state_dict": earlier}, tmp_path / "last.ckpt")
    assert torch.equal(load(tmp_path / "last.ckpt").sample(range(2)), model.sample(range(2)))
