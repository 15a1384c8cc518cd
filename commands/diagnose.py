"""`diagnose`: what is wrong with a checkpoint, or with finished samples, in words and in one picture."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    """The verb's arguments."""
    parser = argparse.ArgumentParser(
        prog="python main.py diagnose",
        description="Looks for mode collapse, memorisation, discriminator overfitting, instability and uneven classes.",
    )
    judged = parser.add_mutually_exclusive_group(required=True)
    judged.add_argument("--ckpt_path", help="a checkpoint, or a run's folder for its newest one")
    judged.add_argument("--samples", type=Path, help="a folder, zip or npz of finished samples")
    parser.add_argument("--data", type=Path, help="the config of the data it was trained on (the run's own)")
    parser.add_argument(
        "--out", type=Path, help="where the picture of nearest training pictures goes (the run's folder)"
    )
    parser.add_argument("--num_samples", type=int, default=2000, help="samples to look at (2000)")
    parser.add_argument("--extractor", default="effnet", help="effnet, inception, or a TorchScript file (effnet)")
    parser.add_argument("--extractor_weights", help="a file with inception's weights, where not to be downloaded")
    parser.add_argument("--resolution", type=int, help="side of the extractor's input, in pixels (its own; effnet 64)")
    parser.add_argument("--seed", type=int, default=0, help="of the samples (0)")
    parser.add_argument("--weights", choices=("ema", "raw"), default="ema", help="averaged or last weights (ema)")
    parser.add_argument("--batch_size", type=int, default=128, help="pictures a pass (128)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps (cpu)")
    parser.add_argument("--cache_dir", type=Path, help="where real statistics are kept (the user's cache folder)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def run(arguments: Sequence[str]) -> int:
    """Looks, and says what it saw."""
    options = parser().parse_args(arguments)
    if options.num_samples < 10 or options.batch_size < 1:
        raise ValueError("--num_samples must be at least 10, --batch_size at least 1")

    # Imported after the arguments are known to be right: --help and typing errors answer at once.
    import torch

    from callbacks.diagnosis import as_plain, diagnose, in_words
    from callbacks.measuring import model_samples
    from commands.options.checkpoints import checkpoint_at, run_folder_of, usable_device
    from commands.options.sources import config_of_run, data_from, pictures_at
    from features.extractors import make_extractor
    from media.files import without_nonfinite, write_json_whole
    from media.pictures import save_png
    from metrics.cache import default_folder
    from models import load

    device = torch.device(usable_device(options.device))
    model = curves = run_folder = None
    shape: tuple[int, ...]
    if options.ckpt_path is not None:
        path = checkpoint_at(options.ckpt_path)
        model = load(path, str(device))
        if len(model.data_shape) != 3:
            raise ValueError(f"{path}: samples of shape {model.data_shape} are no pictures; only those are diagnosed")
        settings = model.settled(model.settings_class(weights=options.weights))
        samples, shape = model_samples(model, options.num_samples, options.seed, settings), model.data_shape
        run_folder = run_folder_of(path)
        curves = None if run_folder is None else curves_of(run_folder, model.samples_seen)
        config = options.data or config_of_run(path)
        out = options.out or ((run_folder or path.parent) / "diagnosis" / f"{path.stem}.png")
    else:
        pictures, shape = pictures_at(options.samples, "train")
        samples, config, out = pictures.subset(options.num_samples), options.data, options.out
        if out is None:
            raise ValueError("--samples needs --out, where the picture of nearest training pictures goes")
    if config is None:
        raise ValueError("say what data it was trained on, by --data configs/data/x.yaml")
    data = data_from(config)
    if data.data_shape != tuple(shape):
        raise ValueError(f"the samples are of shape {tuple(shape)} and the data of {config} of {data.data_shape}")
    extractor = make_extractor(options.extractor, resolution=options.resolution, weights=options.extractor_weights).to(
        device
    )
    quiet = options.json or not sys.stderr.isatty()
    folder = options.cache_dir or default_folder()
    diagnosed = diagnose(samples, data, extractor, folder, options.batch_size, model, curves, quiet)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_png(diagnosed.closest, out)
    if model is not None and run_folder is not None:
        (run_folder / "diagnosis").mkdir(exist_ok=True)
        found = {"samples_seen": model.samples_seen, "num_samples": options.num_samples, "weights": options.weights}
        found["findings"] = as_plain(diagnosed.findings)
        write_json_whole(run_folder / "diagnosis" / f"{path.stem}.json", found)  # run.json belongs to the fit
    if options.json:
        print(json.dumps(without_nonfinite({"findings": as_plain(diagnosed.findings), "picture": str(out)}), indent=2))
        return 0
    print(in_words(diagnosed.findings))
    print(f"\nthe samples closest to training pictures, with these beside them: {out}")
    return 0


def curves_of(run_folder: Path, samples_seen: int) -> tuple[list[dict[str, float]], str] | None:
    """A run's curves up to a checkpoint, and the figure of quality that it went by; None where it kept none."""
    try:
        lines = (run_folder / "metrics.jsonl").read_text().splitlines()
        figures = list(json.loads((run_folder / "run.json").read_text()).get("figures", {}))
    except (OSError, ValueError):
        return None
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:  # cut short by a kill
            continue
        if row["samples_seen"] <= samples_seen:
            rows.append(row)
    return rows, figures[0] if figures else ""
