"""What a run's certificates are about, from its parameters alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deqcert.smoothing.naming import EXACT, classifier


def classifier_name(parameters: Mapping[str, Any]) -> str | None:
    """Name the classifier that a run of the package's own methods certifies.

    For runs whose notes do not say it: those made before version 0.2.

    Args:
        parameters: Of the run's manifest.

    Returns:
        What :meth:`deqcert.certifiers.Certifier.about` says; None where that cannot be told.
    """
    if parameters.get("method") == "enclosed":
        return EXACT
    held = parameters.get("reference", parameters.get("predictor"))
    try:
        return classifier(held["start"], held["stop"], held.get("early"))
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
