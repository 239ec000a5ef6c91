"""Certification as work for any process: an image goes in, a certificate and an audit come out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from deqcert import compose
from deqcert.settings import Settings
from deqcert.smoothing.silence import Silence

if TYPE_CHECKING:
    from deqcert.certifiers import Certificate, Certifier
    from deqcert.certifiers.agreement import Looked
    from deqcert.smoothing import Input


@dataclass(frozen=True)
class Outcome:
    """What an image's task gives.

    Attributes:
        certificate: The certificate.
        looked: The audit of its agreement; None where there is none, or whoever asked makes it.
        cast: Samples solved.
        silent: Those of them that had no vote.
    """

    certificate: Certificate
    looked: Looked | None
    cast: int
    silent: int


class Certification:
    """Certify images, here or in another process; see :class:`deqcert.scale.base.Work`.

    A copy in another process makes model, engine and audit anew, from the same weights and
    settings.

    Args:
        certifier: How.
        loaded: The model.
        settings: How it is evaluated, and what an audit may cost.
        sigma: Standard deviation of the noise; None where none is drawn.
        levels: Steps of the grid of exact noise; None for float noise.
        subject: What the certifier looks at in this process.
    """

    def __init__(
        self,
        certifier: Certifier[Any],
        loaded: compose.Loaded,
        settings: Settings,
        sigma: float | None,
        levels: int | None,
        subject: Any,
    ) -> None:
        self._certifier, self._loaded, self._sigma, self._levels = certifier, loaded, sigma, levels
        alone = {
            field.name: getattr(settings, field.name) for field in dataclasses.fields(Settings)
        }
        threads = torch.get_num_threads()
        self._settings = Settings(**{**alone, "form": loaded.form, "threads": threads})
        self._subject: Any = subject
        self.seed: int | None = None
        """Seed of the noise, which a secret one has only once the run is open."""

    @property
    def device(self) -> str:
        """Where it computes, as torch names it."""
        return self._settings.device

    def open(self) -> Callable[[Input], Outcome]:
        """Get ready, and return what certifies an image."""
        audit = None
        if self._subject is None:
            self._subject = self._make()
            if self._sigma is not None:
                audit = compose.make_agreement_audit(
                    self._certifier,
                    self._subject,
                    self._loaded,
                    self._settings,
                    self._settings.agreement,
                )
        silence = Silence()
        if self._sigma is not None:
            self._subject.seed = self.seed
            self._subject.callbacks.append(silence)
        if audit is not None and self.seed is not None:
            audit.draw_by(self.seed)

        def certify(input: Input) -> Outcome:
            silence.cast = silence.silent = 0
            found = self._certifier.certify(self._subject, input)
            looked = None if audit is None else audit.look(input, found.details.n)
            return Outcome(found, looked, silence.cast, silence.silent)

        return certify

    def same(self, first: Outcome, second: Outcome) -> bool:
        """Whether two outcomes of one image are equal, wall times apart."""
        return _timeless(first) == _timeless(second)

    def __getstate__(self) -> dict[str, Any]:
        """Leave behind what is this process's own."""
        return {**self.__dict__, "_subject": None}

    def _make(self) -> Any:
        """Put the model into its form, and make the engine."""
        settings = self._settings
        self._loaded = compose.form_here(self._loaded, settings)
        if self._sigma is None:
            return self._loaded.model
        seeded = dataclasses.replace(settings, seed=self.seed)  # type: ignore[arg-type]
        return compose.make_engine(self._loaded.model, seeded, self._sigma, self._levels)


def _timeless(outcome: Outcome) -> Outcome:
    looked = outcome.looked
    return dataclasses.replace(
        outcome,
        certificate=dataclasses.replace(outcome.certificate, seconds=0.0),
        looked=None if looked is None else dataclasses.replace(looked, seconds=0.0),
    )
