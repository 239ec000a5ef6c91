"""The seed of all noise: public or secret, and the generator's key that is made of it."""

from __future__ import annotations

import hashlib
import secrets

RANDOM = "random"
"""In place of a seed: bits that nobody knows."""

BITS = 128
"""Bits of a seed."""

KEY_BITS = 64
"""Bits of the generator's key. A seed of no more is the key, as it always was."""


def noise_key(seed: int, index: int, stage: int) -> int:
    """Return the key of the noise generator for one input and one stage.

    A seed below 2^64 is the key itself. A longer one is hashed, together with index and stage, into
    a key of 64 bits: BLAKE2b of the three as little-endian numbers of 16, 4 and 4 bytes. So whoever
    came to know one key knows neither the seed nor the other keys. The generator that the key goes
    into, Philox, is a statistical one: it is not made to hide its key from somebody who sees its
    numbers, which no certificate shows.

    Args:
        seed: 0 to 2^128 - 1.
        index: Index of the input, 0 to 2^32 - 1.
        stage: What the noise is for, 0 to 2^32 - 1.

    **Source:** J.-P. Aumasson, S. Neves, Z. Wilcox-O'Hearn, C. Winnerlein, "BLAKE2" (2013).
    """
    if seed < 1 << KEY_BITS:
        return seed
    place = seed.to_bytes(16, "little") + index.to_bytes(4, "little") + stage.to_bytes(4, "little")
    digest = hashlib.blake2b(place, digest_size=KEY_BITS // 8, person=b"deqcert noise").digest()
    return int.from_bytes(digest, "little")


def draw_seed() -> int:
    """Draw a secret seed from the operating system: as good as 128 bits, never below 2^64."""
    while (seed := secrets.randbits(BITS)) < 1 << KEY_BITS:
        pass
    return seed


def seed_text(seed: int) -> str:
    """Write a seed for a line that others may read before they may know it.

    Returns:
        A seed below 2^64 as it is; of a longer one 32 hexadecimal digits of a hash, which give
        nothing away and can be compared with the seed once that is known.
    """
    if seed < 1 << KEY_BITS:
        return str(seed)
    data = seed.to_bytes(16, "little")
    digest = hashlib.blake2b(data, digest_size=16, person=b"deqcert seed").hexdigest()
    return f"blake2b:{digest}"
