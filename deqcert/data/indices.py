"""Which images of a data set: START:STOP[:STEP]."""

from __future__ import annotations

from deqcert.errors import ConfigError
from deqcert.options import parse_number


def parse_images(text: str, count: int) -> range:
    """Read a selection of images.

    Args:
        text: START:STOP[:STEP] with parts that may be left out, or one index.
        count: Images there are.

    Returns:
        The indices, at least one.

    Raises:
        ConfigError: If it is not a selection, or it reaches outside the data.
    """
    parts = text.split(":")
    numbers = [parse_number(part, whole=True) if part.strip() else None for part in parts]
    broken = any(part.strip() and n is None for part, n in zip(parts, numbers, strict=True))
    whole = [None if number is None else int(number) for number in numbers]
    if len(parts) == 1 and whole[0] is not None:
        chosen = range(whole[0], whole[0] + 1)
    elif len(parts) in (2, 3) and not broken:
        start, stop, step = (*whole, None)[:3]
        step = 1 if step is None else step
        if step < 1:
            raise ConfigError(f"images is {text!r}, but its step must be at least 1")
        chosen = range(0 if start is None else start, count if stop is None else stop, step)
    else:
        raise ConfigError(f"images is {text!r}, but it must read START:STOP[:STEP] or be one index")
    if not chosen and chosen.stop <= count > chosen.start:
        raise ConfigError(f"images {text!r} selects no image; STOP must be larger than START")
    if not chosen or chosen.start < 0 or chosen.stop > count:
        raise ConfigError(
            f"images {text!r} reaches outside the {count} images that there are (0 to {count - 1})"
        )
    return chosen
