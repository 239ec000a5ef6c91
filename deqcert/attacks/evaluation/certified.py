"""What was certified: the images of a finished run, and the classifier that they are about."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from deqcert.errors import ConfigError
from deqcert.runs import Manifest
from deqcert.smoothing import CheckedStop, DecidedStop, EarlyStop, Predictor
from deqcert.solvers import StopRule, get_solver
from deqcert.starts import StartPolicy, get_start

IDENTITY = (
    "checkpoint_sha256",
    "model_config",
    "data_hash",
    "split",
    "sigma",
    "noise",
    "levels",
    "form",
    "shape",
)
"""Parameters of a run that must be as they were certified; a change of others is only told."""
OWN = ("seed", "batch")
"""Parameters that an evaluation chooses for itself."""


@dataclass(frozen=True)
class CertifiedImage:
    """One image and its certificate.

    Args:
        index: Index of the image in its data set.
        prediction: The certified class; None where the certificate abstains.
        radius: The certified radius in the run's norm, in pixel units, at least 0; 0 certifies
            nothing around the image.
    """

    index: int
    prediction: int | None
    radius: float


def learned_start(manifest: Manifest) -> str | None:
    """Return the hash of the learned start that a run's certificates are about, None for none."""
    found = _about(manifest).get("start_sha256")
    return None if found is None else str(found)


def certified_predictor(
    manifest: Manifest, learned: Callable[[], StartPolicy]
) -> tuple[Predictor, int | None]:
    """Return the base classifier that a run's certificates are about.

    For a run with an audit it is the reference; for proven votes the predictor itself.

    Args:
        manifest: Of the run.
        learned: Loads the learned start; called only if the certificates are about one.

    Returns:
        The predictor, and where a vote must be proven the most evaluations for its proof.

    Raises:
        ConfigError: If the learned start is not the one that was certified.
    """
    about = _about(manifest)
    stop, start, early = StopRule(**about["stop"]), get_start("cold"), None
    if learned_start(manifest) is not None:
        start = learned()
        if getattr(start, "sha256", None) != learned_start(manifest):
            raise ConfigError(
                "the learned start is not the one that was certified; say with --start learned:FILE"
                " where it is"
            )
    if "warmup" in about:  # of a chained start, whose states only begin the proofs of votes
        stop = StopRule(**about["warmup"])
    if "early" in about:
        kinds = {"gaps": CheckedStop, "margin": DecidedStop, "residual": EarlyStop}
        early = next(kinds[key] for key in kinds if key in about["early"])(**about["early"])
    solver = get_solver(about["solver"], **about["solver_options"])
    return Predictor(solver, stop, start, early=early), manifest.parameters.get("depth")


def check_same(manifest: Manifest, now: Mapping[str, Any], run: str) -> list[str]:
    """Check that model and images are those that were certified.

    Args:
        manifest: Of the run.
        now: The same parameters of what was loaded.
        run: What to call the run.

    Returns:
        What else has changed since, in words.

    Raises:
        ConfigError: If the model, the images or the noise are others.
    """
    keys = [key for key in now if key not in OWN]

    def differences(keys: list[str]) -> list[str]:
        held = {key: manifest.parameters[key] for key in keys if key in manifest.parameters}
        return Manifest(held, ()).differences(Manifest({key: now[key] for key in keys}, ()))

    differing = differences([key for key in keys if key in IDENTITY])
    if differing:
        raise ConfigError(
            f"{run} is about something else ({'; '.join(differing)}); say with --model, --config "
            "and --data where its own are"
        )
    return differences(keys)


def _about(manifest: Manifest) -> Mapping[str, Any]:
    run = manifest.parameters
    found: Mapping[str, Any] = run.get("reference", run.get("predictor", {}))
    return found
