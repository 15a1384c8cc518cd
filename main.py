"""Atelier's command line: `python main.py VERB ...`. It only dispatches; each verb lives in `commands/`."""

import importlib
import sys
from collections.abc import Sequence

TRAINING = {
    "fit": "train a model from a run config: --config configs/dcgan_fashion_mnist.yaml",
    "validate": "measure a checkpoint on the config's data: --config ... --ckpt_path ...",
    "test": "measure a checkpoint on held-out data: --config ... --ckpt_path ...",
    "predict": "draw samples with the Trainer, on all its devices: --config ... --ckpt_path ...",
}
CHECKPOINTS = {
    "sample": "draw samples from a checkpoint: PNGs, one grid, or an npz",
    "evaluate": "compute quality metrics of a checkpoint, or of existing samples, with their protocol",
    "diagnose": "look for problems: collapse, memorisation, overfitting, instability, uneven classes",
    "reconstruct": "encode pictures with a checkpoint and decode them again",
    "info": "show parameters, output and memory of a config or checkpoint without its data; --measure adds time",
}
GROUPS = {
    "latents": {
        "walk": "interpolate between samples: a strip of pictures, a GIF or an MP4",
        "mix": "mix the styles of samples in a sheet (StyleGAN2)",
        "project": "find the latent whose picture is closest to a given one, with the search as a GIF",
        "directions": "edit a picture along the latent directions that change it most",
        "path_length": "measure how smoothly pictures change with latents: perceptual path length",
    },
    "runs": {
        "list": "list all runs: status, kimg, newest figure, size",
        "best": "find the best run by each figure, separately for each protocol",
        "disk": "show the disk space of each run, by kind of file",
        "remove": "delete runs, after asking",
    },
}
ABOUT_GROUPS = {"latents": "explores a checkpoint's latents", "runs": "manages finished runs"}
SEVERAL_RUNS = {
    "compare": "compare runs: quality by protocol, time, parameters, memory; as tables, CSV or a page",
    "sweep": "run the trials of a W&B sweep file without an account: configs/sweeps/dcgan_fashion_mnist_grid.yaml",
}
FORMATS = {
    "import": "convert an official checkpoint: stylegan2-ada-pytorch, R3GAN, BigGAN-PyTorch",
    "export": "export the averaged generator as ONNX, torch.export, TorchScript or safetensors",
}
SECTIONS = (
    TRAINING,
    CHECKPOINTS,
    {group: f"{ABOUT_GROUPS[group]}: {', '.join(verbs)}" for group, verbs in GROUPS.items()},
    SEVERAL_RUNS,
    FORMATS,
)
"""The top-level verbs with one line of help each, grouped as `help_text` shows them."""
VERBS = {verb: line for section in SECTIONS for verb, line in section.items()}
MODULES = {"import": "importing"}
"""Modules of verbs whose name is a Python keyword."""
RENAMED = {"interpolate": "latents walk"}
"""New names of verbs that were renamed."""

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
        return _complain(f"no verb {verb!r}; {_suggestion(verb) or 'choose from ' + ', '.join(VERBS)}")
    if verb in GROUPS and (not rest or rest[0] in ("-h", "--help", "help")):
        print(help_text(verb))
        return 0
    if verb in GROUPS and rest[0] not in GROUPS[verb]:
        return _complain(f"no verb '{verb} {rest[0]}'; choose from {', '.join(f'{verb} {v}' for v in GROUPS[verb])}")
    # Imported here: some verbs need neither torch nor Lightning, which take ten seconds to import on a small machine.
    from commands.options.errors import BAD_INPUT, InputError, one_line
    from commands.options.own_files import import_own
    from commands.options.parsers import split_flag

    try:
        rest, files = split_flag(rest, "--import")
        for file in files:
            import_own(file)
        if verb in TRAINING:
            return int(importlib.import_module("commands.training").run(verb, rest))
        return int(importlib.import_module(f"commands.{MODULES.get(verb, verb)}").run(rest))
    except (InputError, *BAD_INPUT) as error:
        # A verb of TRAINING raises InputError for what the user can fix; its other errors are crashes.
        if debug or (verb in TRAINING and not isinstance(error, InputError)):
            raise
        return _complain(one_line(error))
    except KeyboardInterrupt:
        if debug:
            raise
        print("interrupted", file=sys.stderr)
        return 130


def help_text(group: str | None = None) -> str:
    """All top-level verbs, or those of a group, with one line each."""
    sections = SECTIONS if group is None else (GROUPS[group],)
    usage = USAGE if group is None else USAGE.replace("VERB", f"{group} VERB")
    about = "Train, measure and compare generative models." if group is None else f"`{group}` {ABOUT_GROUPS[group]}."
    width = max(len(verb) for section in sections for verb in section)
    lines = [usage, "", about]
    for section in sections:
        lines += ["", *(f"  {verb:<{width}}  {line}" for verb, line in section.items())]
    shown = "VERB --help shows the arguments of a verb" + (", or the verbs of a group" if group is None else "")
    own_files = "--import FILE first runs a Python file of yours that defines classes for a checkpoint or config."
    return "\n".join([*lines, "", f"--debug shows the traceback of an error; {shown}.", own_files])


def _suggestion(word: str) -> str | None:
    """The new place of a verb: in a group, or under another name."""
    found = next((f"{group} {word}" for group, verbs in GROUPS.items() if word in verbs), RENAMED.get(word))
    return found and f"use {found!r}"


def _complain(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
