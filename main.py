"""Atelier's command line: `python main.py VERB ...`. Wiring only; each verb lives in `commands/`."""

import importlib
import sys
from collections.abc import Sequence

TRAINING = {
    "fit": "train a model by a run config: --config configs/dcgan_fashion_mnist.yaml",
    "validate": "measure a checkpoint against the config's data: --config ... --ckpt_path ...",
    "test": "measure a checkpoint against the held-out data: --config ... --ckpt_path ...",
    "predict": "draw samples through the Trainer, on all its devices: --config ... --ckpt_path ...",
}
CHECKPOINTS = {
    "sample": "draw samples from a checkpoint: PNGs, one grid, or an npz",
    "evaluate": "figures of quality of a checkpoint, or of finished samples, with their protocol",
    "diagnose": "what is wrong with a checkpoint: collapse, memorisation, overfitting, instability, uneven classes",
    "reconstruct": "pictures, each with what a checkpoint makes of it after encoding it",
    "info": "parameters, output and memory of a config or a checkpoint, without its data; with --measure also time",
}
GROUPS = {
    "latents": {
        "walk": "ways between samples of a checkpoint, as a strip of pictures, a GIF or an MP4",
        "mix": "a sheet of samples that mix the styles of two (StyleGAN2)",
        "project": "a picture as a checkpoint would draw it: the latent that comes nearest, and the way there as a GIF",
        "directions": "a sheet of edits: latents moved along the directions that change pictures most",
        "path_length": "how evenly a checkpoint's pictures change with its latents: perceptual path length",
    },
    "runs": {
        "list": "every run: status, kimg, its first figure, size",
        "best": "the best run by each figure, protocols apart",
        "disk": "what each run takes, by kind",
        "remove": "delete runs, after asking",
    },
}
ABOUT_GROUPS = {"latents": "moves a checkpoint's latents", "runs": "looks after finished runs"}
SEVERAL_RUNS = {
    "compare": "runs side by side: quality by protocol, time, parameters, memory; tables, CSV or a page",
    "sweep": "the trials of a W&B sweep file, without an account: configs/sweeps/dcgan_fashion_mnist_grid.yaml",
}
FORMATS = {
    "import": "a checkpoint of an official one: stylegan2-ada-pytorch, BigGAN-PyTorch",
    "export": "the averaged generator as ONNX, torch.export, TorchScript or safetensors",
}
SECTIONS = (
    TRAINING,
    CHECKPOINTS,
    {group: f"{ABOUT_GROUPS[group]}: {', '.join(verbs)}" for group, verbs in GROUPS.items()},
    SEVERAL_RUNS,
    FORMATS,
)
"""The verbs of the top, each with a line, as `help_text` shows them."""
VERBS = {verb: line for section in SECTIONS for verb, line in section.items()}
MODULES = {"import": "importing"}
"""Of verbs whose name no module can have."""
RENAMED = {"interpolate": "latents walk"}
"""Where a verb is found that once had another name."""

USAGE = "usage: python main.py VERB [--help] [--debug] [--import FILE] [arguments]"


def main(args: Sequence[str] | None = None) -> int:
    """Runs one verb and returns the exit code: 0, 1 for a crash, 2 for bad input, 130 and 143 after a signal."""
    words = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if not words or words[0] in ("-h", "--help", "help"):
        print(help_text())
        return 0
    verb, rest = words[0], words[1:]
    if verb not in VERBS:
        return _complain(f"no verb {verb!r}; {_elsewhere(verb) or 'there are ' + ', '.join(VERBS)}")
    if verb in GROUPS and (not rest or rest[0] in ("-h", "--help", "help")):
        print(help_text(verb))
        return 0
    if verb in GROUPS and rest[0] not in GROUPS[verb]:
        return _complain(f"no verb '{verb} {rest[0]}'; there are {', '.join(f'{verb} {v}' for v in GROUPS[verb])}")
    # Imported here: some verbs need neither torch nor Lightning, whose import takes ten seconds on a small machine.
    from commands.options.errors import BAD_INPUT, InputError, one_line
    from commands.options.own_files import import_own, split_imports

    try:
        rest, files = split_imports(rest)
        for file in files:
            import_own(file)
        if verb in TRAINING:
            return int(importlib.import_module("commands.training").run(verb, rest))
        return int(importlib.import_module(f"commands.{MODULES.get(verb, verb)}").run(rest))
    except InputError as error:
        if debug:
            raise
        return _complain(one_line(error))
    except BAD_INPUT as error:
        if debug or verb in TRAINING:  # a verb of TRAINING turns what the user can mend into an InputError itself
            raise
        return _complain(one_line(error))
    except KeyboardInterrupt:
        if debug:
            raise
        print("interrupted", file=sys.stderr)
        return 130


def help_text(group: str | None = None) -> str:
    """Every verb of the top, or of a group, with a line each."""
    sections = SECTIONS if group is None else (GROUPS[group],)
    usage = USAGE if group is None else USAGE.replace("VERB", f"{group} VERB")
    about = "Train, measure and compare generative models." if group is None else f"`{group}` {ABOUT_GROUPS[group]}."
    width = max(len(verb) for section in sections for verb in section)
    lines = [usage, "", about]
    for section in sections:
        lines += ["", *(f"  {verb:<{width}}  {line}" for verb, line in section.items())]
    shown = "VERB --help shows a verb's arguments" + ", or the verbs of a group." * (group is None)
    own_files = "--import FILE runs a Python file of yours first, whose classes a checkpoint or a config names."
    return "\n".join([*lines, "", f"--debug shows the traceback behind an error; {shown.rstrip('.')}.", own_files])


def _elsewhere(word: str) -> str | None:
    """Where a verb is that is not at the top: under its group, or under another name."""
    grouped = next((f"{group} {word}" for group, verbs in GROUPS.items() if word in verbs), None)
    found = grouped or RENAMED.get(word)
    return found and f"it is {found!r}"


def _complain(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
