"""The count of the released serialized smoothing code: NOT SOUND, for reproducing tables only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from deqcert.certifiers.bounds import beta_quantiles, lower_confidence_bound
from deqcert.certifiers.serialized_paper import SerializedPaper

if TYPE_CHECKING:
    from deqcert.smoothing import Input, SmoothingEngine


@dataclass(frozen=True, kw_only=True)
class SerializedReleased(SerializedPaper):
    """Count as the released code does: wrong votes as if they had never been drawn.

    Both N_A and n are multiplied by 1 - p_m, the audit takes the first samples of the chain, and
    its rate is that of the audit's own favourite class.

    **Guarantee:** none. With 2% of all votes wrong it reports a radius of about 1.58 where 1.03 is
    true (sigma 0.5), every time. It exists to reproduce published tables and is never a default.

    **Source:** the code released with Gao, Hou, Xu, Liu (NeurIPS 2024).
    """

    name: ClassVar[str] = "serialized-released"
    sound: ClassVar[bool] = False

    def bound(self, votes: int, voting: int, agreeing: int) -> float:
        """Return the count's p_lower, which bounds nothing.

        Args:
            votes: Samples among n that voted for the class.
            voting: Audited samples that voted for the audit's favourite class.
            agreeing: Those of them to which the reference gives it too.
        """
        if voting == 0 or votes == 0:
            return 0.0
        kept = lower_confidence_bound(agreeing, voting, self.alpha / 2)
        if kept == 0:
            return 0.0
        counted, drawn = kept * votes, kept * self.n
        return float(beta_quantiles(self.alpha / 2, counted, drawn - counted + 1))

    def audited_samples(self, engine: SmoothingEngine, input: Input) -> NDArray[np.int64]:
        """Return which samples are audited: the head of the chain."""
        return np.arange(self.audit)

    def rated_class(self, guess: int, cast: NDArray[np.int16]) -> int:
        """Return the class whose rate of wrong votes is taken: the audit's own favourite."""
        return int(np.bincount(cast[cast >= 0], minlength=1).argmax())

    def assumptions(self) -> str:
        """Warn."""
        return "UNSOUND: the released count, kept to reproduce published tables; " + (
            super().assumptions()
        )
