"""Tables and curves of certified accuracy from certificate files; needs no model and no torch.

>>> from deqcert.report import read_results, table
>>> print(table([read_results("runs/digits")]).text())          # doctest: +SKIP
"""

from __future__ import annotations

from deqcert.report.parts import join_parts
from deqcert.report.picture import draw_curves
from deqcert.report.reader import Results, read_results
from deqcert.report.tables import Table, default_radii, table

__all__ = [
    "Results",
    "Table",
    "default_radii",
    "draw_curves",
    "join_parts",
    "read_results",
    "table",
]
