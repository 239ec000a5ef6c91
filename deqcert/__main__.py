"""``python -m deqcert`` is the command line."""

from __future__ import annotations

import sys

from deqcert.cli import main

sys.exit(main())
