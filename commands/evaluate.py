"""`evaluate`: figures of quality, with their protocol, of a checkpoint or of finished samples against real pictures."""

import argparse
import datetime
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commands.options import likelihoods
from commands.options.sampler import add_arguments, settings_of, sweep_of

if TYPE_CHECKING:
    from features.extractors import Extractor
    from metrics.evaluation import Figure
    from metrics.observation import Observation
    from metrics.reference import KnownStatistics, Metric, PictureSet, Reference
    from models.training.base import GenerativeModel


def parser() -> argparse.ArgumentParser:
    """The verb's arguments."""
    parser = argparse.ArgumentParser(
        prog="python main.py evaluate",
        description="Measures a checkpoint, or finished samples, against real pictures; says how it measured.",
    )
    judged = parser.add_mutually_exclusive_group(required=True)
    judged.add_argument("--ckpt_path", help="a checkpoint, or a run's folder for its newest one")
    judged.add_argument(
        "--samples", type=Path, help="a folder, zip or npz of pictures, or a data config (real on real)"
    )
    parser.add_argument(
        "--reference", type=Path,
        help="a folder, zip or npz of pictures, a data or run config, or an npz of mu and sigma (the run's own data)",
    )  # fmt: skip
    parser.add_argument("--split", choices=("train", "test"), default="train", help="of a reference's data (train)")
    parser.add_argument("--samples_split", choices=("train", "test"), default="test", help="of --samples' data (test)")
    parser.add_argument(
        "--metrics", nargs="+", metavar="METRIC",
        help="frechet kernel inception_score precision_recall density_coverage class_accuracy modes lpips, and "
        "bits_per_dim (of text bits_per_character) of a checkpoint's held-out data (all that apply, but lpips and what "
        "takes long)",
    )  # fmt: skip
    parser.add_argument("--num_samples", type=int, help="samples to measure (10000 of a checkpoint, else all)")
    parser.add_argument("--reference_samples", type=int, help="real pictures to measure, drawn with a fixed seed (all)")
    parser.add_argument("--extractor", default="effnet", help="effnet, inception, or a TorchScript file (effnet)")
    parser.add_argument("--extractor_weights", help="a file with inception's weights, where not to be downloaded")
    parser.add_argument("--resize", choices=("bicubic", "tf1-bilinear"), default="bicubic", help="filter (bicubic)")
    parser.add_argument("--resolution", type=int, help="side of the extractor's input, in pixels (its own; effnet 64)")
    parser.add_argument("--extractor_precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--seed", type=int, default=0, help="of a checkpoint's samples (0)")
    add_arguments(parser, several=True)
    likelihoods.add_arguments(parser)
    parser.add_argument("--batch_size", type=int, default=128, help="pictures a pass (128)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps (cpu)")
    parser.add_argument("--cache_dir", type=Path, help="where real statistics are kept (the user's cache folder)")
    parser.add_argument("--save_statistics", type=Path, metavar="X.npz", help="write mu and sigma of the samples")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def run(arguments: Sequence[str]) -> int:
    """Measures and prints."""
    options = parser().parse_args(arguments)
    for name in ("num_samples", "reference_samples"):
        if getattr(options, name) is not None and getattr(options, name) < 2:
            raise ValueError(f"--{name} must be at least 2")
    if options.batch_size < 1:
        raise ValueError("--batch_size must be at least 1")
    swept, variants = sweep_of(options)
    if swept is not None and (options.ckpt_path is None or options.save_statistics is not None):
        raise ValueError(f"several values of --{swept} need --ckpt_path, and leave no one sample for --save_statistics")

    # Imported after the arguments are known to be right: --help and typing errors answer at once.
    from commands.options.checkpoints import run_folder_of, usable_device
    from features.extractors import make_extractor
    from metrics.cache import default_folder
    from metrics.evaluation import check_metrics, figures

    device = usable_device(options.device)
    model, checkpoint = loaded(options, device)
    if model is not None and checkpoint is not None and likelihoods.wanted(model, options.metrics):
        name, figure, how = likelihoods.bits(model, checkpoint, options)
        report_bits(name, figure, how, checkpoint, options)
        others = [metric for metric in options.metrics or () if metric not in likelihoods.BITS]
        if (options.metrics and not others) or not makes_pictures(model):
            return 0
        options.metrics = others or None
    extractor = make_extractor(
        options.extractor,
        resolution=options.resolution,
        resize=options.resize,
        precision=options.extractor_precision,
        weights=options.extractor_weights,
    ).to(_device(device))
    folder = options.cache_dir or default_folder()
    sides, shape = judged(variants, model, checkpoint)
    fake = sides[0][0]
    if options.reference is None and checkpoint is None:
        if options.save_statistics is None:
            raise ValueError("--samples needs --reference (or --save_statistics, to write their statistics)")
        seen = observe(["frechet"], extractor, fake, None, folder, options)
        save(seen, extractor, fake, options.save_statistics)
        return 0
    real = reference(options, checkpoint, extractor, shape, folder)
    pictures = getattr(real, "pictures", None)
    metrics = options.metrics or applicable(extractor, pictures, fake)
    check_metrics(metrics, extractor, pictures, fake, real.count or 2)
    real.prepare(metrics)
    run_folder = run_folder_of(checkpoint) if checkpoint is not None else None
    rows: list[tuple[dict[str, Figure], dict[str, Any]]] = []
    results = []
    for fake, facts in sides:
        seen = observe(metrics, extractor, fake, pictures, folder, options)
        found = figures(metrics, real, seen)
        if options.save_statistics is not None:
            save(seen, extractor, fake, options.save_statistics)
        protocol = {**extractor.protocol(), **described(real, options, checkpoint), "num_samples": fake.count, **facts}
        rows.append((found, protocol))
        results.append(
            {
                "figures": {name: as_plain(figure, protocol) for name, figure in found.items()},
                "measured": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            }
        )
        if run_folder is not None:
            keep(results[-1], run_folder)
    if options.json:
        sweep = {"swept": swept, "values": getattr(options, swept), "results": results} if swept else results[0]
        print(json.dumps(_finite(sweep), indent=2))
    elif swept is not None:
        print(sweep_table(swept, getattr(options, swept), rows, extractor, real.count))
    else:
        print(table(*rows[0], extractor, real.count))
    return 0


def loaded(options: argparse.Namespace, device: str) -> "tuple[GenerativeModel | None, Path | None]":
    """The model that is measured and its checkpoint; None where finished samples are."""
    from commands.options.checkpoints import checkpoint_at
    from models import load

    if options.ckpt_path is None:
        if asked := [metric for metric in options.metrics or () if metric in likelihoods.BITS]:
            raise ValueError(f"--metrics {asked[0]}: finished samples have no likelihood; give --ckpt_path")
        return None, None
    path = checkpoint_at(options.ckpt_path)
    return load(path, device), path


def makes_pictures(model: "GenerativeModel") -> bool:
    """Whether figures of pictures can be measured of its samples."""
    return len(model.data_shape) == 3 and model.data_shape[0] in (1, 3) and model.why_no_samples is None


def report_bits(
    name: str, figure: "Figure", protocol: dict[str, Any], checkpoint: Path, options: argparse.Namespace
) -> None:
    """Prints the likelihood's figure and keeps it in the run's folder."""
    from commands.options.checkpoints import run_folder_of

    measured = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    result = {"figures": {name: as_plain(figure, protocol)}, "measured": measured}
    if (folder := run_folder_of(checkpoint)) is not None:
        keep(result, folder)
    if options.json:
        print(json.dumps(_finite(result), indent=2))
    else:
        spread = "" if figure.spread is None else f" ± {figure.spread:.3g}"
        print("\n".join([f"{name}  {figure.value:.6g}{spread}  lower is better", *table_lines(protocol), ""]))


def judged(
    variants: Sequence[argparse.Namespace], model: "GenerativeModel | None", path: Path | None
) -> "tuple[list[tuple[PictureSet, dict[str, Any]]], tuple[int, ...]]":
    """What is measured: the pictures of each variant of the options, and how they came about; a picture's shape."""
    from callbacks.measuring import model_samples
    from commands.options.sources import pictures_at

    options = variants[0]
    if model is None:
        pictures, shape = pictures_at(options.samples, options.samples_split)
        count = options.num_samples or pictures.count
        if count > pictures.count:
            raise ValueError(f"--num_samples {count}: {options.samples} holds {pictures.count}")
        return [(pictures.subset(count), {"samples": pictures.name, "samples_data": pictures.fingerprint})], shape
    if model.why_no_samples is not None:
        raise ValueError(f"{path}: {model.why_no_samples}")
    if len(model.data_shape) != 3 or model.data_shape[0] not in (1, 3):
        remedy = "" if likelihoods.why_not(model) else "; of this model measure --metrics bits_per_dim"
        raise ValueError(f"{path}: samples of shape {model.data_shape} are no pictures{remedy}")
    sides = []
    for variant in variants:
        settings = settings_of(model, variant)
        fake = model_samples(model, options.num_samples or 10_000, options.seed, settings)
        facts = {
            "model": type(model).__name__,
            "samples_seen": model.samples_seen,
            "seed": options.seed,
            "sampler": dict(vars(settings)),
        }
        sides.append((fake, facts))
    return sides, model.data_shape


def reference(
    options: argparse.Namespace,
    checkpoint: Path | None,
    extractor: "Extractor",
    shape: tuple[int, ...],
    folder: Path,
) -> "Reference | KnownStatistics":
    """The real side, of pictures as large as the samples.

    Raises:
        ValueError: it is not named and not known, or does not fit; one line.
    """
    from commands.options.sources import config_of_run, pictures_at
    from metrics.reference import Reference
    from metrics.statistics import known_statistics

    path = options.reference
    if path is None:
        assert checkpoint is not None
        path = config_of_run(checkpoint)
        if path is None:
            raise ValueError(f"{checkpoint} lies in no run's folder: say what to compare with, by --reference")
    if path.suffix == ".npz":
        known = known_statistics(path, extractor)
        if known is not None:
            return known
    pictures, real_shape = pictures_at(path, options.split)
    if real_shape[1:] != shape[1:]:
        sizes = [f"{width}x{height}" for _, height, width in (shape, real_shape)]
        raise ValueError(
            f"the samples are {sizes[0]} and the pictures of {path} {sizes[1]}: a figure would measure the difference "
            "in size; give a reference of the samples' size"
        )
    if options.reference_samples is not None:
        pictures = pictures.subset(options.reference_samples)
    return Reference(pictures, extractor, folder, options.batch_size, quiet=options.json)


def applicable(extractor: "Extractor", real: "PictureSet | None", fake: "PictureSet") -> "list[Metric]":
    """The metrics that can be measured here; lpips, whose weights may have to be downloaded, only when asked for."""
    from metrics.evaluation import check_metrics
    from metrics.reference import METRICS

    found: list[Metric] = []
    for metric in METRICS:
        try:
            check_metrics([metric], extractor, real, fake, real.count if real is not None else 2)
        except ValueError as error:
            if metric == "frechet":  # nothing less can be measured
                raise
            if metric == "kernel" and real is not None:
                print(f"left out: {error}", file=sys.stderr)
            continue
        if metric != "lpips":
            found.append(metric)
    return found


def observe(
    metrics: "Sequence[Metric]",
    extractor: "Extractor",
    fake: "PictureSet",
    real: "PictureSet | None",
    folder: Path,
    options: argparse.Namespace,
) -> "Observation":
    """One pass over the samples, with a progress bar."""
    from tqdm import tqdm

    from callbacks.measuring import in_batches
    from metrics.observation import Observation

    modes = real.modes if real is not None else None
    seen = Observation(metrics, extractor, fake.count, range(fake.count), folder, modes, _device(options.device))
    quiet = options.json or not sys.stderr.isatty()
    with tqdm(total=fake.count, desc=f"Features of {fake.name}", unit="picture", disable=quiet) as bar:
        for pictures, labels in in_batches(fake, range(fake.count), options.batch_size):
            seen.update(pictures, labels)
            bar.update(len(pictures))
    return seen


def save(seen: "Observation", extractor: "Extractor", fake: "PictureSet", path: Path) -> None:
    """Writes the samples' mean and covariance as others publish them, and says so."""
    if path.suffix != ".npz":
        raise ValueError(f"--save_statistics {path}: name a file that ends in .npz")
    path.parent.mkdir(parents=True, exist_ok=True)
    seen.gaussian.save(path, json.dumps({**extractor.protocol(), "data": fake.fingerprint}))
    print(f"{path}: mu and sigma of {fake.count} pictures", file=sys.stderr)


def described(
    real: "Reference | KnownStatistics", options: argparse.Namespace, checkpoint: Path | None
) -> dict[str, Any]:
    """The real side's part of the protocol."""
    from metrics.reference import Reference

    if not isinstance(real, Reference):
        return {"data": real.fingerprint, "reference": str(options.reference), "reference_samples": real.count or None}
    name = real.pictures.name.removeprefix("the ").removesuffix(" split")
    return {"data": real.pictures.fingerprint.split()[0], "reference": name, "reference_samples": real.count}


def as_plain(figure: "Figure", protocol: dict[str, Any]) -> dict[str, Any]:
    """A figure as run.json has it."""
    spread = {} if figure.spread is None else {"spread": figure.spread}
    return {"value": figure.value, **spread, "better": figure.better, "protocol": {**protocol, **figure.settings}}


def keep(result: dict[str, Any], run_folder: Path) -> None:
    """Adds the result to the run's folder, as evaluations/<time>.json; run.json belongs to the fit."""
    from media.files import write_json_whole

    folder = run_folder / "evaluations"
    folder.mkdir(exist_ok=True)
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S-%f")
    write_json_whole(folder / f"{stamp}.json", result)


def table(found: "dict[str, Figure]", protocol: dict[str, Any], extractor: "Extractor", real_count: int) -> str:
    """Figures and protocol for a terminal."""
    rows = []
    for name, figure in found.items():
        spread = "" if figure.spread is None else f" ± {figure.spread:.3g}"
        arrow = {"lower": "lower is better", "higher": "higher is better", None: ""}[figure.better]
        rows.append((name, f"{figure.value:.6g}{spread}", arrow))
        for number, value in enumerate(figure.settings.get("by_class", [])):
            rows.append((f"  class {number}", f"{value:.4g}", ""))
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    lines = [f"{name:<{widths[0]}}  {value:<{widths[1]}}  {arrow}".rstrip() for name, value, arrow in rows]
    return "\n".join([*lines, *_notes(found, protocol, extractor, real_count), "", *table_lines(protocol)])


def sweep_table(
    swept: str,
    values: Sequence[float],
    rows: "Sequence[tuple[dict[str, Figure], dict[str, Any]]]",
    extractor: "Extractor",
    real_count: int,
) -> str:
    """A Markdown table, a row for each value of the swept setting; below it the protocol that the rows share."""
    names = list({name: None for found, _ in rows for name in found})  # modes_kl is left out where it has no value
    cells = [[swept, *names], ["---"] * (len(names) + 1)]
    for value, (found, _) in zip(values, rows, strict=True):
        cells.append([f"{value:g}", *(f"{found[name].value:.6g}" if name in found else "" for name in names)])
    widths = [max(len(row[column]) for row in cells) for column in range(len(names) + 1)]
    lines = [f"| {' | '.join(f'{cell:<{width}}' for cell, width in zip(row, widths, strict=True))} |" for row in cells]
    found, protocol = rows[0]
    shared = {**protocol, "sampler": {key: value for key, value in protocol["sampler"].items() if key != swept}}
    return "\n".join([*lines, "", *_notes(found, protocol, extractor, real_count), *table_lines(shared)])


def _notes(found: "dict[str, Figure]", protocol: dict[str, Any], extractor: "Extractor", real_count: int) -> list[str]:
    fewest = min(protocol["num_samples"], real_count or protocol["num_samples"])
    if fewest > extractor.dimension or not any(name.startswith(("fd_", "fid")) for name in found):
        return []
    return [
        f"note: {fewest} pictures are no more than the {extractor.dimension} features: the distance is biased far "
        "upwards, and compares only with figures of the same counts"
    ]


def table_lines(protocol: dict[str, Any]) -> list[str]:
    """A protocol for a terminal, a line each."""
    return [f"  {key:<20} {_short(value)}" for key, value in protocol.items()]


def _short(value: object) -> str:
    text = json.dumps(value) if isinstance(value, dict) else str(value)
    return f"{text[:12]}…" if len(text) == 64 and all(c in "0123456789abcdef" for c in text) else text


def _finite(value: Any) -> Any:  # noqa: ANN401 - any plain value
    from media.files import without_nonfinite

    return without_nonfinite(value)


def _device(name: str) -> Any:  # noqa: ANN401 - torch is not imported at the top
    import torch

    return torch.device(name)
