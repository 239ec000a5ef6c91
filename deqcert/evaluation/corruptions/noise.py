"""Noise: Gaussian, of photons, of broken pixels, and in proportion to the pixel."""

from __future__ import annotations

import numpy as np

from deqcert.evaluation.corruptions.base import Corruption, Picture

Generator = np.random.Generator


def _gaussian(x: Picture, deviation: float, draw: Generator) -> Picture:
    return x + deviation * draw.standard_normal(x.shape)


def _shot(x: Picture, photons: float, draw: Generator) -> Picture:
    return draw.poisson(x * photons) / photons


def _impulse(x: Picture, share: float, draw: Generator) -> Picture:
    hit, white = draw.random(x.shape) < share, draw.random(x.shape) < 0.5
    return np.where(hit, white.astype(np.float64), x)


def _speckle(x: Picture, deviation: float, draw: Generator) -> Picture:
    return x + x * deviation * draw.standard_normal(x.shape)


GAUSSIAN = Corruption("Gaussian noise", (0.04, 0.06, 0.08, 0.09, 0.10), _gaussian)
SHOT = Corruption("too few photons", (500.0, 250.0, 100.0, 75.0, 50.0), _shot)
IMPULSE = Corruption("values that are black or white", (0.01, 0.02, 0.03, 0.05, 0.07), _impulse)
SPECKLE = Corruption("noise in proportion to brightness", (0.06, 0.1, 0.12, 0.16, 0.2), _speckle)
