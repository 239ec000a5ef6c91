"""``deqcert plan``: samples, audits and time that certificates will need, told before a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from deqcert.api import SmoothedClassifier
from deqcert.cli.fields import FieldType
from deqcert.cli.options import parse_numbers, parse_radii, say, settings_options
from deqcert.errors import ConfigError
from deqcert.options import Option

if TYPE_CHECKING:
    import numpy as np

    from deqcert.certifiers.goals import Radii
    from deqcert.data import Dataset

UNUSED = ("n0", "alpha_total", "audit", "goal", "agreement")
"""Settings of certificates that a plan has no use for."""

NOISE = ("sigma", "n", "alpha", "guesses", "wrong", "seed", "noise", "levels", "start")
"""Parameters that a proof has no use for."""

RUNS = 200
"""Simulated runs of a forecast."""


@click.command(short_help="Samples, audits and time that asked radii need, before a run.")
@settings_options(skip=UNUSED, data="0:10", defaults={"n": 100_000})
@click.option(
    "--radii",
    metavar="R,R,...",
    help="Radii to be decided; 0: a class. A method that proves without noise needs none.",
)
@click.option(
    "--p",
    "guesses",
    metavar="P,P,...",
    help="Guesses of the probability of an image's class under the noise; default: 1, the best.",
)
@click.option(
    "--wrong",
    type=FieldType(Option("float", 0.0, low=0, high=1, high_open=True), "wrong"),
    default=0.0,
    show_default=True,
    help="Share of warm votes that a cold solve does not give, for the audit.",
)
@click.option(
    "--pilot",
    type=FieldType(Option("int", None, low=1, optional=True), "pilot"),
    metavar="VOTES",
    help="Cast so many votes for each of --images, to learn p and the time of a vote; a proof is "
    "timed on --images without it.",
)
def command(
    data: str,
    split: str,
    images: str,
    radii: str | None,
    guesses: str | None,
    wrong: float,
    pilot: int | None,
    **settings: Any,
) -> None:
    """Tell what it takes to certify radii, and refuse what no number of samples can do.

    Without --pilot no model is loaded; sigma must then be given. A pilot casts a few votes with
    noise that certificates never use, and forecasts the whole run from them. For a --method that
    proves without noise, the model is loaded and a few images are timed.
    """
    from deqcert.certifiers import CERTIFIERS
    from deqcert.certifiers.goals import Radii
    from deqcert.certifiers.independent import Independent

    method = settings["method"]
    if method != "auto":
        if CERTIFIERS.get(method).noise:
            raise ConfigError(
                f"a plan compares the methods that draw noise by itself; leave --method {method} "
                "out, or name one that proves without"
            )
        _refuse_noise(method, pilot)
        _prove(SmoothedClassifier(**settings), data, split, images, parse_radii(radii))
        return
    if settings["method_options"]:
        raise ConfigError("--method-option is for a --method, which a plan takes if it is a proof")
    if radii is None:
        raise ConfigError("missing option '--radii': say which are to be decided, as in 0.25,0.5")
    asked = Radii(tuple(sorted(set(parse_radii(radii) or ()))))
    chances = _chances(guesses)
    smooth = SmoothedClassifier(**settings)
    sigma, alpha, n = smooth.noise_level, smooth.alpha, smooth.n
    _refuse(asked, chances, sigma, alpha, n)
    inputs = None
    if pilot is not None:  # a refusal is all there is to say
        inputs = smooth.dataset(data, split=split, images=images)
        _ = smooth.predictor
    print(_table(asked, chances, sigma, alpha, n, wrong))
    if pilot is None or inputs is None:
        for chance in chances:
            runs, _ = _sequential([chance] * RUNS, asked, sigma, alpha, n, smooth.batch)
            print(
                f"{Independent.name}, --goal {asked.describe()}, at p {chance:g}: {runs:.0f} "
                "samples on average"
            )
    else:
        dataset, indices = inputs
        _pilot(smooth.on_grid(dataset.levels), dataset, indices, asked, pilot)


def _refuse_noise(method: str, pilot: int | None) -> None:
    """Refuse what only a plan for noise has a use for."""
    context = click.get_current_context()
    told = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name in NOISE
        and context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE
    ]
    if pilot is not None:
        told.append("--pilot")
    if told:
        raise ConfigError(f"method '{method}' draws no noise; leave {', '.join(told)} out")


def _prove(
    smooth: SmoothedClassifier, data: str, split: str, images: str, radii: list[float] | None
) -> None:
    """Time a proof on a few images, and forecast the run."""
    import numpy as np

    from deqcert import compose
    from deqcert.smoothing import Input

    certifier = smooth.certifier
    dataset, indices = smooth.dataset(data, split=split, images=images)
    model = compose.load(smooth.model, smooth, model_config=smooth.model_config).model
    costs = [
        certifier.forecast(model, Input(dataset.image(index), index))
        for index in (*indices[:1], *indices)  # the first time, caches are cold
    ][1:]
    once, each = max(cost[0] for cost in costs), float(np.mean([cost[1] for cost in costs]))
    print(
        f"method {certifier.name} ({certifier.norm}): no noise, alpha 0; it needs no sigma, no "
        f"samples, no seed and no radii to decide\n"
        f"once a model: {_seconds(once)}; an image: {_seconds(each)} (measured on "
        f"{len(costs)}); all {len(dataset)} of {dataset.name}: "
        f"{_seconds(once + each * len(dataset))}"
    )
    if radii is None:
        return
    certifier.check(model)
    found = np.array([certifier.certify(model, Input(dataset.image(i), i)).radius for i in indices])
    print(
        f"proven on {len(found)} images: "
        + ", ".join(f"{100 * np.mean(found >= radius):.0f}% at {radius:g}" for radius in radii)
        + f" (radius: {certifier.norm}, [0,1] pixels)"
    )


def _seconds(value: float) -> str:
    if value < 1.0:
        return f"{1000.0 * value:.3g} ms" if value > 0.0 else "nothing"
    return f"{value:.0f} s" if value < 120.0 else f"{value / 60.0:.0f} min"


def _chances(text: str | None) -> list[float]:
    chances = [1.0] if text is None else [float(p) for p in parse_numbers("p", text)]
    if not all(0 < chance <= 1 for chance in chances):
        raise ConfigError(
            f"p is {text!r}, but it must be probabilities with commas between, as in 0.9,0.999"
        )
    return chances


def _refuse(asked: Radii, chances: list[float], sigma: float, alpha: float, n: int) -> None:
    """Refuse a radius that n cannot certify at all, and radii that no guess allows."""
    from deqcert.certifiers.bounds import (
        certified_radius,
        lower_confidence_bound,
        write_radius,
    )
    from deqcert.certifiers.plan import samples_needed

    most = certified_radius(lower_confidence_bound(n, n, alpha), sigma)
    largest = max(asked.radii)
    least = samples_needed(largest, sigma, alpha)
    if least is None:
        raise ConfigError(
            f"no number of samples certifies radius {largest:g} with sigma {sigma:g}; ask for less "
            "or train with more noise"
        )
    if least > n:
        raise ConfigError(
            f"radius {largest:g} needs at least {least} samples, all for one class, but n is {n} "
            f"(at most {write_radius(most, 3)}); raise n or ask for less"
        )
    reachable = certified_radius(max(chances), sigma)
    if reachable <= min(asked.radii):
        raise ConfigError(
            f"at p {max(chances):g} the true radius is {write_radius(reachable, 3)}, so that no "
            f"number of samples certifies {min(asked.radii):g}; ask for less"
        )


def _table(
    asked: Radii, chances: list[float], sigma: float, alpha: float, n: int, wrong: float
) -> str:
    """Tabulate what each radius needs at each guess."""
    from deqcert.certifiers.plan import audits_needed, probability_needed, samples_needed
    from deqcert.certifiers.serialized import Serialized
    from deqcert.certifiers.standard import Standard

    lines = [["p", "radius", "needs p above", f"{Standard.name} n", f"{Serialized.name} K of {n}"]]
    for chance in chances:
        for radius in asked.radii:
            samples = samples_needed(radius, sigma, alpha, chance)
            audits = audits_needed(radius, sigma, alpha, n, chance, wrong)
            lines.append(
                [
                    f"{chance:g}",
                    f"{radius:g}",
                    f"{probability_needed(radius, sigma):.6f}",
                    "never" if samples is None else str(samples),
                    "never" if audits is None else str(audits),
                ]
            )
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    body = [
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    ]
    head = f"sigma {sigma:g}, alpha {alpha:g}; {Standard.name} n: certified in nine of ten runs"
    return "\n".join([head, *body])


def _sequential(
    chances: list[float] | np.ndarray,
    asked: Radii,
    sigma: float,
    alpha: float,
    n: int,
    batch: int,
) -> tuple[float, list[float]]:
    """Return mean samples, and for each radius the share of the runs that certify it."""
    import numpy as np

    from deqcert.certifiers.plan import forecast
    from deqcert.certifiers.sampling import radii

    runs = forecast(
        np.asarray(chances),
        asked,
        n=n,
        alpha=alpha,
        sigma=sigma,
        batch=batch,
        rng=np.random.default_rng(0),
    )
    held = radii(runs.p_lower, sigma)
    return float(runs.drawn.mean()), [float(np.mean(held >= radius)) for radius in asked.radii]


def _pilot(
    smooth: SmoothedClassifier, dataset: Dataset, indices: range, asked: Radii, pilot: int
) -> None:
    """Cast a few votes for each image and forecast the run."""
    import numpy as np

    from deqcert.certifiers.independent import Independent
    from deqcert.certifiers.standard import Standard
    from deqcert.smoothing import Input, Silence, Stage

    engine, alpha, n, silence = smooth.engine, smooth.alpha, smooth.n, Silence()
    engine.callbacks.append(silence)
    leading: list[int] = []
    nfe = seconds = 0.0
    for index in indices:
        input = Input(dataset.image(index), index)
        votes = engine.votes(smooth.predictor, input, Stage.PILOT, pilot)
        leading.append(int(votes.counts.max()))
        nfe, seconds = nfe + votes.nfe, seconds + votes.seconds
    cast = pilot * len(indices)
    k = np.array(leading)
    # What the pilot leaves open about each image's p is part of the forecast.
    spread = np.random.default_rng(0).beta(
        k[:, None] + 0.5, pilot - k[:, None] + 0.5, (len(k), max(1, RUNS // len(k)))
    )
    mean, certified = _sequential(spread.ravel(), asked, engine.sigma, alpha, n, smooth.batch)
    low, middle, high = np.quantile(k / pilot, (0, 0.5, 1))
    each = seconds / cast
    print(
        f"pilot: {len(k)} images, {pilot} votes each; p from {low:.3f} to {high:.3f}, median "
        f"{middle:.3f}; {1000 * each:.3f} ms and {nfe / cast:.2f} evaluations per vote\n"
        f"{Standard.name}, --n {n}: {n * each:.1f} s per image\n"
        f"{Independent.name}, --n {n} --goal {asked.describe()}: {mean:.0f} samples and "
        f"{mean * each:.1f} s per image on average, {n / mean:.1f} times less; expected to certify "
        + ", ".join(
            f"{100 * share:.0f}% at {radius:g}"
            for radius, share in zip(asked.radii, certified, strict=True)
        )
    )
    say(silence.note())
