"""Certificates of a changed model from the votes of a finished run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deqcert.api import SmoothedClassifier
from deqcert.certifiers.registry import RECERTIFIERS, make_from_votes
from deqcert.errors import ConfigError
from deqcert.options import choice, options_of
from deqcert.runs.environment import machine, versions
from deqcert.runs.manifest import describe_images
from deqcert.runs.votes import VotedRun
from deqcert.settings import Data, Starting

if TYPE_CHECKING:
    from deqcert.certifiers import Certifier
    from deqcert.compose import Loaded
    from deqcert.data import Dataset

OF_THE_RUN = ("sigma", "noise", "levels", "seed", "n0", "n")
"""Settings that are the run's own: what its noise and its votes are."""

NOT_PASSED_ON = ("method", "method_options", "alpha", "alpha_total", "audit", "goal", "agreement")
"""Settings of a run that say nothing of how a changed model is certified."""


NOT_CHANGED = ("noise", "levels", "seed", "n0", "n", "method", "method_options")
"""Settings that a change cannot be about."""


@dataclass(frozen=True, kw_only=True)
class Recertifying:
    """How a changed model is certified from votes that are there.

    Args:
        method: recertified audits the votes for the selected class; incremental is the published
            method, to compare with.
    """

    method: str = choice("recertified", RECERTIFIERS)


@dataclass(frozen=True)
class RecertifiedClassifier(SmoothedClassifier):
    """A changed classifier that is certified from the votes of a finished run.

    Make it with :meth:`of_run`; :meth:`certify_dataset` then needs a part of the evaluations.

    Args:
        run: The run whose votes are audited.
        how: Name of the method.
    """

    run: VotedRun | None = None
    how: str = "recertified"

    @classmethod
    def of_run(
        cls, run: str | Path | VotedRun, how: str = "recertified", **settings: Any
    ) -> RecertifiedClassifier:
        """Make a changed classifier; what is not said of it is as it was in the run.

        Args:
            run: The folder of a finished run that keeps its votes.
            how: Name of the method.
            **settings: What has changed, such as ``model`` or ``form``; alpha, audit and goal.

        Raises:
            RunError: If it is no finished run, or does not keep its votes.
            ConfigError: If a setting is the run's own and another one, or out of range.
        """
        voted = run if isinstance(run, VotedRun) else VotedRun(run)
        given = {key: value for key, value in settings.items() if value is not None}
        own = _own(voted)
        for key, value in own.items():
            if key in given and given[key] != value:
                raise ConfigError(
                    f"{key} is {given[key]}, but the votes of {voted.folder} were cast at {key} "
                    f"{value}, and a changed model is certified from these; leave it out"
                )
        held = settings_of(voted)
        if "model" in given:
            held.pop("model_config", None)
        if "alpha_total" in given:
            held.pop("alpha")
        return cls(run=voted, how=how, **{**held, **own, **given})

    @cached_property
    def certifier(self) -> Certifier[Any]:
        """The certifier, with all that it needs."""
        return self._certifier_of(1)

    def _usual_folder(self) -> str:
        assert self.run is not None
        return f"{self.run.folder}-recertified"

    def written(self, data: Data | None = None) -> dict[str, Any]:
        """Return the settings that differ from their defaults, but for the run."""
        found = super().written(data)
        return {key: value for key, value in found.items() if key not in ("run", "how")}

    def _certifier_of(self, count: int) -> Certifier[Any]:
        assert self.run is not None
        options = {
            "n0": self.n0,
            "n": self.n,
            "alpha": self.alpha if self.alpha_total is None else self.alpha_total / count,
            "audit": self.audit,
            "goal": self._goal,
        }
        return make_from_votes(self.how, self.predictor, self.run, options)

    def _fitting(self, loaded: Loaded, data: str | Dataset, chosen: Data) -> tuple[Dataset, range]:
        assert self.run is not None
        found, indices = super()._fitting(loaded, data, chosen)
        held, now = (self.run.parameters.get("data_hash"), found.hash())
        if held != now or self.run.parameters.get("split") != chosen.split:
            raise ConfigError(
                f"{found.name} ({chosen.split}) is not the data that {self.run.folder} voted on; "
                "leave --data and --split out, or say with --data where its images are now"
            )
        missing = [index for index in indices if index not in self.run.lines]
        if missing:
            raise ConfigError(
                f"image {missing[0]} is none of {self.run.folder}, which has "
                f"{describe_images(self.run.manifest.images)}; give --images among these"
            )
        return found, indices


def settings_of(run: VotedRun) -> dict[str, Any]:
    """Return the settings of a run's classifier, for a change of some of them.

    What is certified is the run's certified classifier with the change: of a run whose votes were
    audited, its reference. Settings of the certificates themselves are not among them, but alpha
    is.

    Args:
        run: The run.
    """
    held = dict(run.manifest.notes.get("settings", {}))
    dropped = {*NOT_PASSED_ON, *OF_THE_RUN, *options_of(Data)}
    if "reference" in run.parameters:
        dropped |= {*options_of(Starting)}
    found = {key: value for key, value in held.items() if key not in dropped}
    return {**found, "alpha": run.parameters["alpha"], "agreement": 0.0}


def data_of(run: VotedRun) -> Mapping[str, str]:
    """Return where the run's images are, as it was given then."""
    split = str(run.parameters.get("split", "test"))
    images = describe_images(run.manifest.images)
    return {"data": str(run.manifest.notes.get("data")), "split": split, "images": images}


def moved(run: VotedRun) -> list[str]:
    """Say what is another version or machine now than when the run voted, in words."""
    before, now = run.manifest.last_environment, {**versions(), **machine()}
    return [
        f"{key} was {before[key]} when {run.folder} voted and is now {now[key]}"
        for key in now
        if key in before and before[key] != now[key]
    ]


def _own(run: VotedRun) -> dict[str, Any]:
    was = run.parameters
    own = {key: was[key] for key in ("sigma", "seed", "n0", "n") if key in was}
    levels = was.get("levels")
    return {**own, "noise": "float" if levels is None else "exact", "levels": levels}
