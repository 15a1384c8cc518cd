"""Diagnoses of a model, in words: findings from features, logits and the curves of a run.

Every threshold compares with real or held-out pictures in the same role. If it is a matter of judgement, its comment
says so.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from metrics.neighbours import nearest, neighbour_distances, neighbour_figures
from records.diagnosis import Finding, Verdict
from records.figures import Direction, best_of


def mode_collapse(real: np.ndarray, others: np.ndarray, fake: np.ndarray, adversarial: bool = True) -> Finding:
    """Whether samples omit parts of the data, or repeat themselves.

    All arguments are features (N, D): of real pictures, of about as many other real ones, the baseline, and of about as
    many samples. Recall and coverage depend on the number of pictures and on the features, so only their ratio to those
    of other real pictures has a meaning. `adversarial` models have a discriminator, which decides the advice.
    """
    distances = neighbour_distances(real, 5)
    ours, baseline = (neighbour_figures(rows, real, real_distances=distances) for rows in (fake, others))
    between_reals = distances[:, 0]
    close = float(np.quantile(between_reals, 0.01))
    repeated = float((neighbour_distances(fake, 1)[:, 0] <= close).mean())
    expected = float((between_reals <= close).mean())
    different = distinct(fake, close) if repeated > 0.5 else len(fake)
    figures = {
        "recall": ours.recall, "recall_real": baseline.recall, "coverage": ours.coverage,
        "coverage_real": baseline.coverage, "precision": ours.precision, "precision_real": baseline.precision,
        "repeated": repeated, "repeated_real": expected, "different": float(different),
    }  # fmt: skip
    says = (
        f"recall {ours.recall:.2f} and coverage {ours.coverage:.2f}, where real pictures reach {baseline.recall:.2f} "
        f"and {baseline.coverage:.2f}; {repeated:.1%} of samples all but repeat another, of real ones {expected:.1%}"
    )
    if repeated > 0.5:
        says = f"{len(fake)} samples show only {different} different pictures; {says}"
    helps = (
        "a stronger regularizer (R1 with a higher gamma), minibatch statistics in the discriminator, a lower learning "
        "rate, a larger batch, or an earlier checkpoint"
        if adversarial
        else "more training, a larger network, or a sampler that keeps more variety (temperature 1, no top_k or top_p)"
    )
    reached = min(ours.recall / max(baseline.recall, 1e-9), ours.coverage / max(baseline.coverage, 1e-9))
    if ours.precision < 0.2 * baseline.precision and repeated < 0.5:
        says = f"samples are far from the data altogether (precision {ours.precision:.2f}), too far to judge; {says}"
        return Finding("mode collapse", "suspect", says, f"more training first; then {helps}", figures)
    # Half and 85 % of what real pictures reach: judgements; the shares of repeats are far above a hundredth.
    verdict = _verdict(reached < 0.5 or repeated > 0.2, reached < 0.85 or repeated > 0.05 + 2 * expected)
    return _finding("mode collapse", verdict, says, helps, figures)


def _verdict(found: bool, suspect: bool) -> Verdict:
    return "found" if found else "suspect" if suspect else "fine"


def _finding(name: str, verdict: Verdict, says: str, helps: str, figures: dict[str, float]) -> Finding:
    """A finding with advice only if something is, or may be, wrong."""
    return Finding(name, verdict, says, helps if verdict in ("found", "suspect") else "", figures)


def distinct(rows: np.ndarray, close: float) -> int:
    """The number of pictures that remain when those within a distance of an earlier one are dropped."""
    left = torch.from_numpy(np.array(rows, dtype=np.float64))
    count = 0
    while len(left):
        count += 1
        left = left[(left - left[0]).norm(dim=1) > close]
    return count


def memorisation(train: np.ndarray, unseen: np.ndarray | None, fake: np.ndarray, adversarial: bool = True) -> Finding:
    """Whether samples are copies of training pictures: closer to them than held-out pictures are.

    All arguments are features (N, D). Without held-out pictures, `unseen`, each training picture's distance to its
    nearest other one replaces theirs.
    """
    own = nearest(fake, train, 1)[0][:, 0]
    by = "held-out pictures" if unseen is not None else "training pictures to one another"
    if unseen is not None:
        expected = nearest(unseen, train, 1)[0][:, 0]
    else:
        some = np.random.RandomState(0).permutation(len(train))[: len(fake)]
        expected = nearest(train[some], train, 2)[0][:, 1]  # the nearest is the picture itself
    close = float(np.quantile(expected, 0.05))
    share = float((own <= close).mean())
    usual = float((expected <= close).mean())
    copies = float((own <= 1e-3 * float(np.median(expected))).mean())
    figures = {"closer_than_95_percent": share, "expected": usual, "copies": copies}
    says = (
        f"{share:.1%} of samples are closer to a training picture than 95 % of {by}; {usual:.1%} would be chance, "
        f"and {copies:.1%} are copies"
    )
    augmentation = "augmentation of what the discriminator sees (DiffAugment, ADA)" if adversarial else "dropout"
    helps = f"more data, {augmentation}, a smaller model, or an earlier stop"
    # Five times and twice the share by chance: judgements.
    chance = max(usual, 0.05)
    verdict = _verdict(share > 5 * chance or copies > 0.01, share > 2 * chance)
    return _finding("memorisation", verdict, says, helps, figures)


def discriminator_overfitting(
    train: Tensor,
    unseen: Tensor | None,
    fake: Tensor,
    zero_is_undecided: bool = True,
    rows: Sequence[Mapping[str, float]] = (),
) -> Finding:
    """Whether the discriminator has memorised its training pictures.

    Karras et al. 2020 (ADA, arXiv:2006.06676, eq. 1): r_v is how far held-out pictures have moved from the training
    pictures' logits towards the samples', r_t the mean sign of the training pictures' logits.

    Args:
        train: logits of training pictures, (N,).
        unseen: logits of held-out pictures, or None if there are none.
        fake: logits of samples.
        zero_is_undecided: whether logits have a meaningful sign; otherwise there is no r_t.
        rows: of metrics.jsonl, in order: r_t of pictures as they were augmented in training, and ADA's p.
    """
    from torchmetrics.functional.classification import binary_auroc

    figures = {"gap_to_samples": float(train.double().mean() - fake.double().mean())}
    r_t, signs = -math.inf, "the sign of a logit has no meaning under this loss"
    if zero_is_undecided:
        r_t = float(train.double().sign().mean())
        signs = f"r_t is {r_t:.2f}"
        figures["r_t"] = r_t
        if (in_training := _last_tenth(rows, "r_t")) is not None:
            figures["r_t_in_training"] = in_training
            signs += f", and was {in_training:.2f} in training"
    if (p := _last_tenth(rows, "ada_p")) is not None:
        figures["ada_p"] = p
        signs += f" under ADA with p = {p:.2f}"
    helps = (
        "augmentation of what the discriminator sees (DiffAugment, ADA), more data, a stronger R1, or an earlier stop"
    )
    if unseen is None:
        says = f"{signs}; no pictures are held out, so the gap to unseen ones is unknown"
        # ADA aims at 0.6; well above it discriminators overfit in every one of the paper's runs.
        verdict: Verdict = "suspect" if r_t > 0.8 else "unknown"
        return _finding("discriminator overfitting", verdict, says, helps, figures)
    gap = float(train.double().mean() - unseen.double().mean())
    r_v = gap / figures["gap_to_samples"] if figures["gap_to_samples"] > 0 else math.nan
    logits = torch.cat([train, unseen]).double().sigmoid()
    auroc = float(binary_auroc(logits, torch.cat([torch.ones(len(train)), torch.zeros(len(unseen))]).long()))
    figures |= {"gap_to_unseen": gap, "r_v": r_v, "auroc": auroc}
    says = (
        f"training pictures are told from held-out ones with AUROC {auroc:.2f} (0.5 is chance); the gap between their "
        f"logits is {r_v:.0%} of that to samples (r_v); {signs}"
    )
    verdict = _verdict(auroc > 0.75 or r_v > 0.5, auroc > 0.6 or r_v > 0.25)
    return _finding("discriminator overfitting", verdict, says, helps, figures)


def _last_tenth(rows: Sequence[Mapping[str, float]], name: str) -> float | None:
    """The mean of a curve over its last tenth; None if there is no such curve."""
    values = [row[name] for row in rows if isinstance(row.get(name), int | float)]
    return float(np.mean(values[-max(len(values) // 10, 1) :])) if values else None


def instability(
    rows: Sequence[Mapping[str, float]], figure: str, better: Direction | None = "lower", adversarial: bool = True
) -> Finding:
    """Whether training was unstable: gradient spikes, a quality figure that fluctuates, or one that got worse again.

    `rows` are those of metrics.jsonl, in order. `better` is the direction of `figure`.
    """
    helps = (
        "a lower learning rate, a stronger regularizer, clipping (adversarial.clip_norm), or a longer average"
        if adversarial
        else "a lower learning rate or a longer warm-up, clipping (optimization.clip_norm), or a longer average"
    )
    curve = [(row["samples_seen"], row[figure]) for row in rows if isinstance(row.get(figure), int | float)]
    figures: dict[str, float] = {}
    said: list[str] = []
    verdict: Verdict = "fine"
    for name in ("g_grad_norm", "d_grad_norm", "encoder_grad_norm", "grad_norm"):
        norms = np.array([row[name] for row in rows if isinstance(row.get(name), int | float)])
        norms = norms[len(norms) // 10 :]  # the first training steps always fluctuate
        if len(norms) < 10:
            continue
        spikes = float((norms > 10 * np.median(norms)).mean())
        figures[f"{name}_spikes"] = spikes
        if spikes > 0:
            verdict = "found" if spikes > 0.02 else "suspect"
            said.append(f"{spikes:.1%} of {name} lie above ten times its median")
    if len(curve) >= 4:
        best_at, best = best_of(curve, lambda point: point[1], better or "lower")
        last = curve[-1][1]
        ratio = last / best if best > 0 else math.inf
        worse = ratio if better != "higher" else best / last if last > 0 else math.inf
        later = [value for _, value in curve[len(curve) // 3 :]]
        swings = float(np.std(np.diff(np.log(np.maximum(later, 1e-12))))) if len(later) > 2 else 0.0
        figures |= {"last_over_best": ratio, "swing": swings}
        said.append(
            f"{figure} ends at {ratio:.2f} of its best, reached at {best_at / 1000:g} kimg, and swings by {swings:.0%}"
        )
        # Judgements: a converging run ends within a tenth of its best, and moves by a few per cent between evaluations.
        if worse > 1.5 or swings > 0.5:
            verdict = "found"
        elif (worse > 1.2 or swings > 0.25) and verdict == "fine":
            verdict = "suspect"
    if not figures:
        says = "the run's curves are too short, or missing"
        return Finding("instability", "unknown", says, "", {})
    says = "; ".join(said) or "gradients without spikes"
    return _finding("instability", verdict, says, helps, figures)


def uneven_classes(
    fake: Tensor, real: Tensor, names: Sequence[str], accuracy: float, conditional: bool = False
) -> Finding:
    """Whether classes are as frequent as in the data, according to one classifier for both.

    `fake` and `real`, int64, are its predictions for samples and for real pictures, so that its own mistakes cancel;
    `accuracy` is its share of right ones for real pictures that it was not fitted to.
    """
    classes = len(names)
    ours, theirs = (torch.bincount(found, minlength=classes).double() / len(found) for found in (fake, real))
    distance = float((ours - theirs).abs().sum() / 2)
    ratio = ours / theirs.clamp(min=1e-9)
    order = ratio.argsort().tolist()
    rare = [f"{names[i]} {ours[i]:.1%} of {theirs[i]:.1%}" for i in order if ratio[i] < 0.5 and theirs[i] > 0][:5]
    frequent = [f"{names[i]} {ours[i]:.1%} of {theirs[i]:.1%}" for i in reversed(order) if ratio[i] > 2][:5]
    figures = {"total_variation": distance, "rarest_ratio": float(ratio[theirs > 0].min()), "accuracy": accuracy}
    says = f"shares of classes are {distance:.1%} off (classifier right on {accuracy:.0%} of real pictures)"
    says += f"; rare: {', '.join(rare)}" if rare else ""
    says += f"; frequent: {', '.join(frequent)}" if frequent else ""
    helps = "more training, or what helps against mode collapse"
    helps = helps if conditional else f"a conditional model (model.conditional), {helps}"
    chance = math.sqrt(classes / (2 * math.pi) * (1 / len(fake) + 1 / len(real)))  # mean |p - q| / 2 of equal shares
    rarest = figures["rarest_ratio"]
    verdict = _verdict(distance > 0.25 + chance or rarest < 0.1, distance > 0.1 + chance or rarest < 0.5)
    return _finding("uneven classes", verdict, says, helps, figures)
