"""The class that the smoothed classifier answers, or none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deqcert.certifiers.bounds import two_sided_p_value
from deqcert.errors import ConfigError
from deqcert.smoothing.stage import Stage

if TYPE_CHECKING:
    from deqcert.smoothing import Input, Predictor, SmoothingEngine


def predict(
    engine: SmoothingEngine,
    predictor: Predictor,
    input: Input,
    *,
    n: int = 1000,
    alpha: float = 0.001,
) -> int | None:
    """Answer with the smoothed classifier's class, or abstain.

    Args:
        engine: The engine, which holds the model, sigma and the seed.
        predictor: The base classifier; its start must be independent.
        input: The input, and the index that selects its noise.
        n: Noisy samples, at least 1.
        alpha: Failure probability, in (0, 1).

    Returns:
        The class, or None to abstain.

    Raises:
        ConfigError: If a number is out of range, the start is chained, or n is too small for alpha.
        DataError: If the input does not fit the model.

    **Guarantee:** with probability at least 1 - alpha over the noise it abstains or answers the
    class that the classifier smoothed from ``predictor`` answers.

    **Source:** Cohen et al. (2019), PREDICT; Hung and Fithian (2019).
    """
    if not predictor.independent:
        raise ConfigError(
            f"predict needs independent samples, but start '{predictor.start.name}' chains them; "
            "use start 'cold'."
        )
    if not 0.0 < alpha < 1.0:
        raise ConfigError(f"alpha is {alpha}, but it must lie strictly between 0 and 1.")
    least = int(np.ceil(1 - np.log2(alpha)))
    if isinstance(n, bool) or not isinstance(n, int) or n < least:
        raise ConfigError(f"n is {n!r}, but at alpha {alpha:g} it must be at least {least}.")
    counts = engine.votes(predictor, input, Stage.PREDICT, n).counts
    order = np.argsort(-counts, kind="stable")
    leader = int(order[0])
    runner_up = int(counts[order[1]]) if len(counts) > 1 else 0
    p_value = two_sided_p_value(int(counts[leader]), runner_up)
    return leader if p_value <= alpha - engine.charge(input.x, n) else None
