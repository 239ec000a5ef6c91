"""What each kind of run is evidence for."""

from __future__ import annotations

from deqcert.safety_case.kinds.attacked import Attacked
from deqcert.safety_case.kinds.base import Kind
from deqcert.safety_case.kinds.calibrated import Calibrated
from deqcert.safety_case.kinds.certified import Certified
from deqcert.safety_case.kinds.companion import Companion
from deqcert.safety_case.kinds.evaluated import Evaluated
from deqcert.safety_case.kinds.other import Other
from deqcert.safety_case.kinds.sets import Sets
from deqcert.safety_case.kinds.trained import Trained
from deqcert.safety_case.kinds.watched import Watched
from deqcert.safety_case.run_folder import RunFolder

KINDS: tuple[Kind, ...] = (
    Attacked(),
    Sets(),
    Calibrated(),
    Certified(),
    Evaluated(),
    Watched(),
    Trained(),
)
"""Every kind that is known, in the order in which a folder is looked at."""


def kind_of(run: RunFolder) -> Kind:
    """Return what kind of run it is; one that is not known is kept, and claims nothing."""
    if run.beside:
        return Companion()
    return next((kind for kind in KINDS if kind.holds(run)), Other())


__all__ = ["KINDS", "Kind", "kind_of"]
