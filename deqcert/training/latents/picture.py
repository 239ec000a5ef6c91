"""The picture of a fitted head: what is measured, what the mixture predicts, what drift leaves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deqcert.latents.prediction import label_band
from deqcert.report.picture import COLOURS, new_figure, save_figure
from deqcert.training.latents.config import LatentConfig


def draw(
    path: Path,
    curves: Mapping[str, Any],
    *,
    config: LatentConfig,
    lipschitz: float | None,
    n: int,
) -> Path:
    """Draw certified accuracy against latent radius.

    Two curves, each with what it may lose: the measured one by the luck of n labels, the predicted
    one by a drift within the budget.

    Args:
        path: File to write.
        curves: ``radius``, and shares at these: ``measured``, ``predicted``, ``under_drift``.
        config: What was fitted.
        lipschitz: Proven constant of the encoder, for a second axis in pixel units; None for none.
        n: Held-out latents that the measured curve is of.
    """
    figure, axes = new_figure()
    radii, measured = curves["radius"], 100.0 * curves["measured"]
    low = (measured - 100.0 * label_band(n, config.alpha)).clip(min=0.0)
    axes.plot(radii, measured, color=COLOURS[0], label=f"{n} held-out", drawstyle="steps-pre")
    axes.fill_between(
        radii,
        low,
        measured,
        step="pre",
        alpha=0.2,
        linewidth=0.0,
        color=COLOURS[0],
        label=f"one-sided {100 * (1 - config.alpha):g}% band",
    )
    predicted, drifted = 100.0 * curves["predicted"], 100.0 * curves["under_drift"]
    axes.plot(radii, predicted, "--", color=COLOURS[1], label="the mixture's prediction")
    axes.fill_between(
        radii,
        drifted,
        predicted,
        alpha=0.2,
        linewidth=0.0,
        color=COLOURS[1],
        label=f"within a drift of {config.kappa:g} nats",
    )
    axes.set_xlim(0.0, float(radii[-1]) or 1.0)
    axes.set_ylim(-1, 101)
    axes.set_xlabel(r"latent radius ($\ell_2$)")
    axes.set_ylabel("certified accuracy (%)")
    axes.legend(loc="best", frameon=False, fontsize=9)
    if lipschitz:
        upper = axes.secondary_xaxis(
            "top",
            functions=(
                lambda latent: np.asarray(latent) / lipschitz,
                lambda pixels: np.asarray(pixels) * lipschitz,
            ),
        )
        upper.set_xlabel(rf"proven $\ell_2$ radius (pixels in [0, 1]), constant {lipschitz:.3g}")
    axes.set_title(f"Latents, head {config.head}", loc="left", fontsize=11, fontweight="bold")
    return save_figure(figure, path)
