"""What a watch promises; it is declared here so that help texts need no watch."""

from __future__ import annotations

from dataclasses import dataclass

from deqcert.options import check_options, number


@dataclass(frozen=True, kw_only=True)
class Promise:
    """What a watch promises.

    Args:
        delta: Probability that any of the alarms is ever raised falsely, however long one watches
            and however often one looks.
        drift_budget: Drift that is tolerated, in nats: no alarm while the law of answers is within
            this divergence of the reference's.
    """

    delta: float = number(0.01, above=0, below=1, metavar="D")
    drift_budget: float = number(0.0, low=0, metavar="KAPPA")

    def __post_init__(self) -> None:
        check_options(self)
