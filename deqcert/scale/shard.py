"""A shard: the part of a run's images that one process, job or machine certifies on its own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from deqcert.errors import ConfigError


@dataclass(frozen=True)
class Shard:
    """One of several parts of equal size, give or take an image.

    Args:
        index: Which one, from 1.
        count: How many there are.
    """

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def part(self, images: Sequence[int]) -> Sequence[int]:
        """Return the images of this shard: neighbours, in their order.

        Args:
            images: Indices of all images, in order.

        Raises:
            ConfigError: If there are fewer images than shards.
        """
        total = len(images)
        if total < self.count:
            raise ConfigError(
                f"{total} images cannot be cut into {self.count} shards; give --shard I/N with N "
                f"at most {total}"
            )
        cuts = [total * at // self.count for at in (self.index - 1, self.index)]
        return images[cuts[0] : cuts[1]]


def parse_shard(given: str) -> Shard:
    """Read I/N.

    Raises:
        ConfigError: If it does not read so, or I is not from 1 to N.
    """
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", given, flags=re.ASCII)
    if found is not None:
        index, count = int(found[1]), int(found[2])
        if 1 <= index <= count:
            return Shard(index, count)
    raise ConfigError(
        f"shard is {given[:80]!r}, but it must read I/N with I from 1 to N, as in 2/8."
    )
