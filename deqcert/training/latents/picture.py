"""The picture of a fitted head: what is measured, what the mixture predicts, what drift leaves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deqcert.report.picture import COLOURS, new_figure, save_figure
from deqcert.training.latents.config import LatentConfig


def draw(
    path: Path,
    curves: Mapping[str, Any],
    *,
    band: float,
    config: LatentConfig,
    lipschitz: float | None,
) -> Path:
    """Draw certified accuracy against latent radius.

    Args:
        path: File to write.
        curves: ``radius``, and shares at these: ``measured``, ``predicted``, ``under_drift``.
        band: How far below the measured curve the true one may lie, from 0.
        config: What was fitted.
        lipschitz: Proven constant of the encoder, for a second axis in pixel units.
    """
    figure, axes = new_figure()
    radii, measured = curves["radius"], 100.0 * curves["measured"]
    low = (measured - 100.0 * band).clip(min=0.0)
    axes.plot(radii, measured, color=COLOURS[0], label="held-out images", drawstyle="steps-pre")
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
    axes.plot(
        radii, 100.0 * curves["predicted"], "--", color=COLOURS[1], label="the mixture's prediction"
    )
    axes.plot(
        radii,
        100.0 * curves["under_drift"],
        ":",
        color=COLOURS[2],
        label=f"left of it under a drift of {config.kappa:g} nats",
    )
    axes.set_xlim(0.0, float(radii[-1]) or 1.0)
    axes.set_ylim(-1, 101)
    axes.set_xlabel(r"latent radius ($\ell_2$)")
    axes.set_ylabel("certified accuracy (% of held-out images)")
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
