"""The safety case: what runs prove about a model, each claim with its evidence, in one folder.

A case is self-contained. ``artefacts/`` holds copies of the runs; ``case.json`` the claims with
their figures and the hashes of what they rest on; ``safety_case.md``, ``not_claimed.md``,
``model_card.md`` and ``index.html`` say the same to people; ``bom.cdx.json`` is the bill of
materials; ``SHA256SUMS`` is what ``sha256sum -c`` takes. Every document but the bill is a function
of the artefacts, so that :func:`verify_case` computes all of it again and compares.
"""

from __future__ import annotations

from deqcert.safety_case.claims import Claim, Figure
from deqcert.safety_case.verifying import Verdict, verify_case
from deqcert.safety_case.writing import write_case

__all__ = ["Claim", "Figure", "Verdict", "verify_case", "write_case"]
