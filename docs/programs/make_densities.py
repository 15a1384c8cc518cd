"""Plots learned densities of points in the plane beside the true ones, for any model with a likelihood.

pip install -e '.[docs]'
python docs/programs/make_densities.py docs/images/flow_matching_densities.png configs/flow_matching_moons.yaml configs/flow_matching_gaussians.yaml

The program uses each config's newest run in runs/. If there is none, it trains one first, as `python main.py fit` does.
For each config it prints the integral of the learned density over the grid, the mean log-likelihood of the test points
under the truth and under the model, in nats, and the divergence KL(truth || model) over the grid.
"""  # noqa: E501

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import main
from commands.options.checkpoints import checkpoint_at
from commands.options.sources import data_from
from models import load
from models.training.capabilities import HasLikelihood

SIDE, CELLS = 1.25, 100
"""Half the side of the plotted square, and the cells along a side."""
CHUNK = 2500


def trained(config: Path) -> HasLikelihood:
    """The last model of the config's newest run, which is trained first if there is none."""
    name = Path("runs", config.stem)
    if not name.exists() and main.main(["fit", "--config", str(config), "--run.wandb", "off"]):
        raise SystemExit(f"{config}: training failed")
    model = load(checkpoint_at(name))
    if not isinstance(model, HasLikelihood):
        raise SystemExit(f"{config}: {type(model).__name__} has no likelihood")
    return model


def log_densities(model: HasLikelihood, points: torch.Tensor) -> torch.Tensor:
    """The model's log-density at each point, float64 (N,)."""
    return torch.cat([model.log_prob(some).cpu() for some in points.float().split(CHUNK)])


def draw(out: Path, configs: list[Path]) -> None:
    """Trains, measures, and writes the figure to `out`."""
    ticks = (torch.arange(CELLS, dtype=torch.float64) + 0.5) / CELLS * 2 * SIDE - SIDE
    grid, area = torch.cartesian_prod(ticks, ticks), (2 * SIDE / CELLS) ** 2
    figure, axes = plt.subplots(len(configs), 3, figsize=(9, 3.1 * len(configs)), layout="constrained", squeeze=False)
    for config, row in zip(configs, axes, strict=True):
        data, model = data_from(config), trained(config)
        true, learned = data.log_density(grid), log_densities(model, grid)
        test, _ = data.examples("test", range(min(2000, data.size("test"))))
        gap = (true.exp() * (true - learned)).sum().item() * area
        known, found = data.log_density(test).mean().item(), log_densities(model, test).mean().item()
        print(
            f"{config.stem}: the learned density adds up to {learned.exp().sum().item() * area:.4f} over the grid, "
            f"the true one to {true.exp().sum().item() * area:.4f}; log-likelihood of {len(test)} test points "
            f"{found:.4f} nats, of the truth {known:.4f}; KL {gap:.4f} nats; {model.likelihood_kind}"
        )
        top, extent = true.exp().max().item(), (-SIDE, SIDE, -SIDE, SIDE)
        for axis, values in ((row[0], true), (row[1], learned)):
            axis.imshow(values.exp().view(CELLS, CELLS).T, origin="lower", extent=extent, vmin=0, vmax=top)
        samples = torch.cat([model.sample(range(i, i + 500)).cpu() for i in range(0, 2000, 500)])
        row[2].scatter(*samples.T, s=1)
        row[2].set(xlim=extent[:2], ylim=extent[2:], aspect="equal")
        titles = ("true density", f"{type(model).__name__}: KL {gap:.3f} nats", "2,000 samples")
        for axis, title in zip(row, titles, strict=True):
            axis.set(title=title, xticks=[], yticks=[])
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=90)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    draw(Path(sys.argv[1]), [Path(config) for config in sys.argv[2:]])
