"""Named ways to evaluate one model: the same classifier up to rounding, at another speed.

A form is part of what is declared and certified: its last bits are its own, and in bfloat16 and
int8 more than the last.
"""

from __future__ import annotations

import lazy_loader

# What there is stands in the stub beside this file; it is imported when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
