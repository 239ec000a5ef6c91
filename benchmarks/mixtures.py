"""Does the predicted curve of a mixture come true, and what is left where the fit is wrong?

    python benchmarks/mixtures.py

Mixtures of which everything is known, 2 to 64 dimensions and 2 to 10 classes. First the Bayes head
of the law itself: predicted against simulated certified accuracy, by latent radius. Then a head and
a mixture that are fitted to few latents: the true certified accuracy (simulated) must stay above
kl^-(predicted, kappa) with kappa the *true* divergence, which is known here, and the line of
Pinsker's inequality lies below that. Written: results/mixtures.md and its picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch

from deqcert.certifiers.metrics import certified_accuracy
from deqcert.latents import LatentRadius, Mixture, divergence, fit_head, fit_mixture, under_drift
from deqcert.report.picture import COLOURS, new_figure, save_figure
from deqcert.training.latents.fit import DRAWS, predict

RESULTS = Path(__file__).resolve().parent / "results"
SIZES = ((2, 2), (2, 5), (8, 3), (16, 10), (32, 5), (64, 2), (64, 10))
"""Elements of a latent, and classes."""
DRAWN = ((2, 2), (16, 10), (64, 10))
POINTS = 21
LATENTS_PER_ELEMENT = 10


@dataclass(frozen=True)
class Compared:
    """Curves of one law at the same latent radii."""

    name: str
    radii: np.ndarray
    predicted: np.ndarray
    simulated: np.ndarray
    kappa: float = 0.0

    @property
    def left(self) -> np.ndarray:
        """What a divergence of kappa leaves of the predicted curve."""
        return np.asarray(under_drift(self.predicted, self.kappa))

    @property
    def pinsker(self) -> np.ndarray:
        """The same by Pinsker's inequality."""
        return (self.predicted - np.sqrt(self.kappa / 2)).clip(min=0.0)


def law(size: int, classes: int, shared: bool, seed: int) -> Mixture:
    """Draw a mixture whose classes overlap a little, whatever its size."""
    draw = np.random.default_rng(seed)
    roots = draw.standard_normal((1 if shared else classes, size, size)) / np.sqrt(size)
    covariances = roots @ roots.transpose(0, 2, 1) + 0.3 * np.eye(size)
    means = draw.standard_normal((classes, size)) * 3.0 / np.sqrt(2.0 * size)
    return Mixture(means, covariances, draw.dirichlet(np.full(classes, 5.0)))


def compare(true: Mixture, fitted: Mixture, name: str, n: int) -> Compared:
    """Predict with one mixture and simulate with another."""
    head = fit_head("lda" if fitted.shared else "qda", fitted)
    z, y = true.sample(n, seed=7)
    reach = LatentRadius(head).at(torch.from_numpy(z))
    right = reach.best.numpy() == y
    radii = np.linspace(0.0, float(np.quantile(reach.radius.numpy()[right], 0.98)), POINTS)
    return Compared(
        name,
        radii,
        predict(fitted, head, radii, seed=3),
        certified_accuracy(right, reach.radius.numpy(), radii.tolist()),
        divergence(true, fitted),
    )


def line(found: Compared) -> str:
    """Return the row of a fitted mixture."""
    half = POINTS // 4
    at = (found.predicted, found.simulated, found.left, found.pinsker)
    shares = " | ".join(f"{100 * curve[half]:.1f}" for curve in at)
    least = 100 * float((found.simulated - found.left).min())
    return f"| {found.name} | {found.kappa:.3f} | {shares} | {least:.1f} |"


@click.command()
@click.option("--n", default=20_000, show_default=True, help="Latents of a simulated curve.")
def main(n: int) -> None:
    """Compare, and write results/mixtures.md."""
    exact, wrong = [], []
    for shared in (True, False):
        for size, classes in SIZES:
            name = f"{size} | {classes} | {'shared (lda)' if shared else 'per class (qda)'}"
            true = law(size, classes, shared, seed=size + classes)
            exact.append(compare(true, true, name, n))
            z, y = true.sample(LATENTS_PER_ELEMENT * size * classes + 40 * classes, seed=5)
            wrong.append(compare(true, fit_mixture(z, y, shared=shared), name, n))
            print(
                name, f"{np.abs(exact[-1].predicted - exact[-1].simulated).max():.4f}", flush=True
            )
    figure, axes = new_figure()
    for colour, (size, classes) in zip(COLOURS, DRAWN, strict=False):
        found = next(w for w in wrong if w.name.startswith(f"{size} | {classes} | shared"))
        unit = found.radii / found.radii[-1]
        label = f"m = {size}, K = {classes}"
        axes.plot(unit, 100 * found.simulated, color=colour, label=f"{label}: true")
        axes.plot(unit, 100 * found.predicted, "--", color=colour, linewidth=1.0)
        axes.fill_between(
            unit, 100 * found.left, 100 * found.predicted, color=colour, alpha=0.15, linewidth=0.0
        )
        axes.plot(unit, 100 * found.pinsker, ":", color=colour, linewidth=1.0)
    axes.plot([], [], "--", color="grey", linewidth=1.0, label="predicted by the fit")
    axes.plot([], [], ":", color="grey", linewidth=1.0, label="left of it by Pinsker")
    axes.fill_between([], [], [], color="grey", alpha=0.15, label="left of it by kl⁻, true KL")
    axes.set_xlim(0, 1)
    axes.set_ylim(-1, 101)
    axes.set_xlabel("latent radius, over the largest")
    axes.set_ylabel("certified accuracy (%)")
    axes.legend(loc="best", frameon=False, fontsize=8)
    axes.set_title("Mixtures fitted to few latents", loc="left", fontsize=11, fontweight="bold")
    save_figure(figure, RESULTS / "mixtures.png")
    (RESULTS / "mixtures.md").write_text(page(exact, wrong, n), encoding="utf-8")


def page(exact: list[Compared], wrong: list[Compared], n: int) -> str:
    """Return the page."""
    apart = [100 * float(np.abs(e.predicted - e.simulated).max()) for e in exact]
    rows = [
        f"| {e.name} | {100 * e.predicted[0]:.1f} | {100 * e.simulated[0]:.1f} | "
        f"{100 * e.predicted[POINTS // 4]:.1f} | {100 * e.simulated[POINTS // 4]:.1f} | {a:.2f} |"
        for e, a in zip(exact, apart, strict=True)
    ]
    spread = 100 * 0.5 / np.sqrt(n)
    return "\n".join(
        [
            "# Mixtures of which everything is known",
            "",
            "```",
            f"python benchmarks/mixtures.py --n {n}",
            "```",
            "",
            "## The predicted curve is the simulated one",
            "",
            f"The Bayes head of the law; certified accuracy in %, simulated with {n} latents "
            f"(standard deviation at most {spread:.2f}). *At r* is a quarter of the largest latent "
            f"radius. Predicted curves of qda rest on {DRAWS} latents themselves, which adds "
            f"{100 * 0.5 / np.sqrt(DRAWS):.2f}.",
            "",
            "| m | K | covariances | predicted, r = 0 | simulated | predicted, at r | simulated | "
            "largest difference, all radii |",
            "| ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |",
            *rows,
            "",
            "## A fit that is a little wrong",
            "",
            f"Fitted to {LATENTS_PER_ELEMENT} m + 40 latents a class. KL is of latent and class "
            "together, true law against fit, in closed form. *True* is what the fitted head really "
            "certifies; kl⁻ and Pinsker are what the KL leaves of the prediction, at a quarter of "
            "the largest radius; *margin* is the least of true minus kl⁻ over all radii.",
            "",
            "| m | K | covariances | true KL, nats | predicted | true | kl⁻ | Pinsker | margin |",
            "| ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
            *map(line, wrong),
            "",
            "![true, predicted and left](mixtures.png)",
            "",
        ]
    )


if __name__ == "__main__":
    main()
