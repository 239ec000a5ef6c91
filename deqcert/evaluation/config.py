"""How much of everything an evaluation looks at."""

from __future__ import annotations

from dataclasses import dataclass

from deqcert.options import check_options, number


@dataclass(frozen=True, kw_only=True)
class Evaluating:
    """How much an evaluation looks at; images that are fewer are spread evenly over all.

    Args:
        certify_images: How many of the images are certified, at most.
        attack_images: How many of the certified ones are attacked, at most.
        ood_images: How many images of each foreign data set are looked at, at most.
        fit_images: How many training images the distances of latents are fitted to, at most.
        votes: Noisy copies of each image for shares of votes; 0 for none.

    Raises:
        ConfigError: If a number is out of range.
    """

    certify_images: int = number(100, low=1, metavar="N")
    attack_images: int = number(20, low=1, metavar="N")
    ood_images: int = number(500, low=2, metavar="N")
    fit_images: int = number(1000, low=1, metavar="N")
    votes: int = number(100, low=0, metavar="N")

    def __post_init__(self) -> None:
        check_options(self)


def spread(images: range, most: int) -> range:
    """Return at most so many of some images, at equal distances."""
    step = -(-len(images) // most)
    return images[::step]
