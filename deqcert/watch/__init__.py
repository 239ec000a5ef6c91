"""Alarms that may be watched for ever: answers against a reference, by bets.

>>> from deqcert.watch import Reference, RunSource, Watch
>>> source, reference = RunSource("runs/today"), Reference.read("reference.json")  # doctest: +SKIP
>>> with Watch(reference, source, "runs/today-watch") as watch:                    # doctest: +SKIP
...     watch.go_on()
...     watch.standing
False
"""

from __future__ import annotations

import lazy_loader

# What there is stands in the stub beside this file; it is imported when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
