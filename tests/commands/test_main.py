"""The command line: help at once, one clear line for bad input, exit codes."""

import dataclasses
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from commands.options.errors import InputError, parser_error
from main import GROUPS, MODULES, TRAINING, VERBS, main
from settings.training import AdversarialTraining
from tests.commands.conftest import Run

REPOSITORY = Path(__file__).parents[2]


def test_help_names_every_verb_and_imports_neither_torch_nor_lightning() -> None:
    program = (
        "import sys, main; code = main.main(['--help']) or main.main(['nonsense']);"
        "print(code, [name for name in ('torch', 'lightning', 'wandb', 'numpy') if name in sys.modules])"
    )
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert time.monotonic() - start < 5  # a second on an idle machine; importing torch alone takes longer than this
    assert done.stdout.splitlines()[-1] == "2 []"
    for verb in VERBS:
        assert f"\n  {verb} " in done.stdout
    assert len(VERBS) <= 20


def light_verbs() -> list[str]:
    """The modules of all verbs that are no verbs of Lightning's."""
    grouped = [f"latents.{verb}" for verb in GROUPS["latents"]]
    return [MODULES.get(verb, verb) for verb in VERBS if verb not in TRAINING] + grouped


def test_no_verb_imports_torch_before_its_arguments_are_read() -> None:
    program = (
        f"import importlib, sys; [importlib.import_module(f'commands.{{verb}}') for verb in {light_verbs()}];"
        "print([name for name in ('torch', 'lightning', 'wandb', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_verb_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    grouped = [[group, verb] for group, verbs in GROUPS.items() for verb in verbs]
    for words in [*([verb] for verb in VERBS if verb not in GROUPS), *grouped]:
        with pytest.raises(SystemExit) as stop:
            main([*words, "--help"])
        assert stop.value.code == 0
        shown = capsys.readouterr().out
        assert shown.startswith("usage: " if words[0] in TRAINING else f"usage: python main.py {' '.join(words)} ")


def test_a_group_has_help_with_a_line_for_each_of_its_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    for group, verbs in GROUPS.items():
        for words in ([group], [group, "--help"]):
            assert main(words) == 0
            shown = capsys.readouterr().out
            assert shown.startswith(f"usage: python main.py {group} VERB")
            assert all(f"\n  {verb} " in shown for verb in verbs)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["interpolate", "--out", "x.png"], "no verb 'interpolate'; use 'latents walk'"),
        (["mix"], "no verb 'mix'; use 'latents mix'"),
        (["list"], "no verb 'list'; use 'runs list'"),
        (["latents", "wander"], "no verb 'latents wander'; choose from latents walk, latents mix"),
        (["nonsense"], "no verb 'nonsense'; choose from fit, validate"),
    ],
)
def test_an_unknown_verb_is_told_where_it_is(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert capsys.readouterr().err.startswith(f"error: {said}")


def test_help_says_what_stands_beside_a_setting(capsys: pytest.CaptureFixture[str]) -> None:
    def shown(*words: str) -> str:
        with pytest.raises(SystemExit):
            main(["fit", *words])
        return " ".join(capsys.readouterr().out.split())

    of_fit = shown("--help")
    for key in ("quality", "likelihood", "samples", "texts"):
        rule = "thousand samples in an interval; if left out, a tenth of the budget, or 50 without a budget"
        assert f"--{key}.every_kimg EVERY_KIMG {rule}" in of_fit
    of_training = shown("--model", "models.dcgan.DCGAN", "--model.adversarial.help", "AdversarialTraining")
    for field in dataclasses.fields(AdversarialTraining):
        assert field.metadata["help"] in of_training


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model.widht", "3"], "model: Option 'widht' is not accepted"),
        (["--model.adversarial.lrr", "3"], "model.adversarial: Option 'lrr' is not accepted"),
        (["--budget.kimgg", "3"], "unrecognized arguments: --budget.kimgg 3"),
        (["--trainer.devicess", "3"], "unrecognized arguments: --trainer.devicess 3"),
        (["--model", "models.dcgan.DCGANN"], "no attribute 'DCGANN'"),
        (["--data.batch_size", "many"], "data.batch_size: Expected a <class 'int'>"),
        (["--data.batch_size", "0"], "batch_size: must be at least 1"),
        (["--data.resolution", "24"], "a power of two from 16 up, not 24x24: set data.resolution"),
        (["--model.adversarial.d_steps", "0"], "d_steps must be at least 1"),
        (["--budget.kimg", "-1"], "budget.kimg must be positive"),
        (["--checkpoints.keep", "0"], "checkpoints.keep must be at least 1"),
        (["--quality.num_samples", "1"], "quality.num_samples"),
        (["--ckpt_path", "nowhere.ckpt"], "no checkpoint at nowhere.ckpt"),
        (["--config", "nowhere.yaml"], "File does not exist"),
        (["--trainer.strategy", "fsdp"], "FSDP"),
    ],
)
def test_bad_input_gives_one_line_and_exit_code_2(
    fit: Run, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert fit(*arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert said in error
    assert "Traceback" not in error
    assert len(error) < 400


def test_debug_shows_the_traceback(config: Path) -> None:
    with pytest.raises(InputError):
        main(["fit", "--config", str(config), "--model.widht", "3", "--debug"])


def test_a_broken_config_file_is_named(fit: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.yaml").write_text("model: [unclosed")
    assert fit("--config", tmp_path / "broken.yaml") == 2
    assert "broken.yaml" in capsys.readouterr().err


def test_print_config_prints_what_would_run(fit: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        fit("--model.adversarial.lr", "0.5", "--print_config")
    assert stop.value.code in (0, None)
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"]["init_args"]["adversarial"]["init_args"]["lr"] == 0.5
    assert printed["trainer"]["max_epochs"] == -1  # configs/defaults.yaml is loaded by itself


def test_evaluating_needs_a_checkpoint(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("validate", "test", "predict"):
        assert main([verb, "--config", str(config)]) == 2
        assert "needs --ckpt_path" in capsys.readouterr().err


def test_a_parser_error_keeps_the_branch_that_got_farthest() -> None:
    message = """Parser key "model":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'M'>, <class 'NoneType'>]
  Errors:
    - Problem with given class_path 'M':
        Parser key "inner":
          Option 'x' is not accepted
    - Expected a <class 'NoneType'>
  Given value type: <class 'str'>"""
    assert parser_error(message) == "model.inner: Option 'x' is not accepted"
