"""What a user can get wrong, one class per kind; each message is a sentence and says what works."""

from __future__ import annotations


class DeqcertError(Exception):
    """Base of every error that deqcert raises on purpose; the command line exits with 2 on it."""


class ConfigError(DeqcertError, ValueError):
    """An option or a combination of options that cannot work."""


class DataError(DeqcertError):
    """An image file, a data set or a label that cannot be used."""


class CheckpointError(DeqcertError):
    """A checkpoint that is missing, damaged, not weights, or made for another architecture."""


class SolverError(DeqcertError):
    """A cell or a start state that a solver cannot work with."""


class RunError(DeqcertError):
    """A run folder that cannot be written, continued or read."""


class KernelError(DeqcertError, ValueError):
    """An array that a kernel cannot take; the message names the argument."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with a sentence about what is safe and how to go on."""
