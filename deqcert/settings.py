"""What a certification can be told: every word, default and meaning, once.

The Python front door, the command line and configuration files all read these classes; a word
means the same in each of them. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deqcert.certifiers import CERTIFIERS
from deqcert.data import dataset_names
from deqcert.errors import ConfigError
from deqcert.models import FORMS
from deqcert.options import check_options, choice, number, options_of, text
from deqcert.scale.shard import Shard, parse_shard
from deqcert.solvers import SOLVERS
from deqcert.starts import STARTS

SPLITS = ("test", "train")
NOISES = ("exact", "float")


@dataclass(frozen=True, kw_only=True)
class Data:
    """Which inputs.

    Args:
        data: Name of a data set and its place, such as digits, mnist:DIR or npz:FILE.
        split: Which part of the data.
        images: Which images of it, counted from 0: START:STOP[:STEP]; ':' is all, '7' is one.
    """

    data: str = text("digits", metavar="SPEC", words=dataset_names)
    split: str = choice("test", SPLITS)
    images: str = text(":", metavar="START:STOP[:STEP]")


@dataclass(frozen=True, kw_only=True)
class Spreading:
    """Who does the work; it changes no result.

    Args:
        workers: Processes of this machine that work together. Each has the run's threads; of a
            new run that names none, its share of the cores.
        ray: Work on a Ray cluster: HOST:PORT of one, or local for one on this machine. Each worker
            has a GPU, or as many cores as the run has threads; of a new run that names none, one.

    Raises:
        ConfigError: If workers and ray are both given.
    """

    workers: int | None = number(None, low=1, high=4096, whole=True, metavar="N")
    ray: str | None = text(None, metavar="HOST:PORT")

    def __post_init__(self) -> None:
        check_options(self)
        if self.workers is not None and self.ray is not None:
            raise ConfigError("workers and ray are both given; give one of them.")

    @property
    def many(self) -> bool:
        """Whether other processes compute."""
        return self.workers is not None or self.ray is not None


@dataclass(frozen=True, kw_only=True)
class Sharding(Spreading):
    """Which part of the work, and who does it.

    Args:
        shard: Certify only the I-th of N parts of the images, in a run folder of its own;
            `deqcert merge` puts the parts together.
    """

    shard: Shard | None = text(None, metavar="I/N", convert=parse_shard)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """How a model is evaluated on noisy copies.

    Args:
        batch: Noisy copies solved together; also the slots of start previous.
        shape: Rows of every evaluation of the model; if not given, the batch. Fix it to get the
            same votes whatever the batch.
        seed: Seed of all noise. Certificates hold for inputs and models that do not depend on it;
            take random, which nobody knows until the run is finished, where whoever chose them may
            have known it.
        noise: How noise is drawn. exact rounds the noisy copy to the grid that the data lie on,
            as part of what is certified, and is true on a computer for any model; float adds
            float32 numbers, which a malicious model can see through. auto is exact where the data
            say that they lie on a grid.
        levels: Steps of that grid between 0 and 1, such as 255 for 8-bit images; if not given,
            what the data say, and for arrays the training's record beside the checkpoint.
        device: Where the model runs, as torch names it: cpu, cuda or cuda:N.
        threads: CPU threads; if not given, torch's own number.
        form: How the model is evaluated; part of what is certified. auto is what
            `deqcert bench forms` found to be the fastest here, or else folded where the model can
            be.
    """

    batch: int = number(100, low=1, metavar="B")
    shape: int | None = number(None, low=1, whole=True, metavar="B")
    seed: int | str = number(0, low=0, high=2**128 - 1, also=("random",))
    noise: str = choice("auto", NOISES, also=("auto",))
    levels: int | None = number(None, low=1, whole=True, metavar="L")
    device: str = text("cpu", metavar="NAME")
    threads: int | None = number(None, low=1, high=4096, whole=True, metavar="T")
    form: str = choice("auto", FORMS, also=("auto",))


@dataclass(frozen=True, kw_only=True)
class Solving:
    """How a cold solve is done.

    Args:
        solver: Name of the fixed-point solver.
        solver_options: Its options by name, such as damping.
        window: Short for the solver's option of that name.
        depth: Most cell evaluations of a cold solve.
        tol: Relative residual that ends a cold solve; a sample that does not reach it has no
            vote. 0 makes exactly `depth` evaluations, and every sample votes.
    """

    solver: str = choice("anderson", SOLVERS)
    solver_options: Mapping[str, Any] = field(default_factory=dict)
    window: int | None = number(None, low=1, whole=True, metavar="K")
    depth: int = number(30, low=1, metavar="D")
    tol: float = number(1e-3, low=0, metavar="T")


@dataclass(frozen=True, kw_only=True)
class Starting:
    """How a solve that casts a vote starts and ends.

    Args:
        start: Where the solve of a noisy copy starts. learned:FILE names what
            `deqcert train-start` wrote; learned alone is beside the model.
        steps: Cell evaluations of a solve that does not start cold; if not given, 3, and with a
            learned start the depth that was tuned for it. For a learned start 0 solves as
            `depth` and `tol` say.
        early: Make a solve's first step from a relative residual of at most this its last one;
            every copy votes. For cold (in place of `tol`) and learned starts.
        margin: Instead, make a step a solve's last once the two largest logits are further apart
            than this many times what the step changed in any. For learned starts, whose file
            holds what a readout costs.
        warmup: Cell evaluations of the cold batch that begins a chain; if not given, a cold solve
            as `depth` and `tol` say.
        refresh: Solve every so many batches of a chain cold again; 0 is only the first.
    """

    start: str = text("cold", metavar="NAME", words=STARTS)
    steps: int | None = number(None, low=0, whole=True, metavar="S")
    early: float | None = number(None, above=0, whole=False, metavar="R")
    margin: float | None = number(None, above=0, whole=False, metavar="F")
    warmup: int | None = number(None, low=1, whole=True, metavar="W")
    refresh: int = number(0, low=0, metavar="R")


@dataclass(frozen=True, kw_only=True)
class Certifying:
    """What certificates rest on.

    Args:
        method: Name of the certifier. auto is standard for a cold start, independent for a
            learned start or a goal, and serialized (serialized-strata with a goal) for a start
            that chains samples.
        n0: Noisy copies that choose the class.
        n: Noisy copies that bound its probability.
        alpha: Probability that a certificate may be wrong, in all.
        alpha_total: Instead, probability that any certificate of the run may be wrong: each image
            gets the same share of it.
        audit: Votes that are solved again cold, for the methods with an audit; if not given,
            1000, or n if that is less.
        goal: When an image has had enough: budget (all of n), radii=R,R,... (each of these is
            certified or out of reach; 0 asks for a class), or relative=SHARE (within that share
            of the radius that all of n could give).
        agreement: How much of a run's evaluations, at most, goes into a look at how often the
            certified classifier agrees with the converged model, where it is another; 0 is none.
        method_options: Further options of the method by name, for methods that have some.
    """

    method: str = choice("auto", CERTIFIERS, also=("auto",))
    n0: int = number(100, low=1, metavar="N")
    n: int = number(10000, low=1, metavar="N")
    alpha: float = number(0.001, above=0, below=1, metavar="A")
    alpha_total: float | None = number(None, above=0, below=1, whole=False, metavar="A")
    audit: int | None = number(None, low=1, whole=True, metavar="K")
    goal: str = text("budget", metavar="GOAL")
    agreement: float = number(0.05, low=0, high=1, metavar="SHARE")
    method_options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Settings(Certifying, Starting, Solving, Machine):
    """Everything but the model, its noise, and the data.

    Raises:
        ConfigError: If a value is of another type or out of range, or alpha is given twice.
    """

    def __post_init__(self) -> None:
        check_options(self)
        usual = options_of(type(self))["alpha"].default
        if self.alpha_total is not None and self.alpha != usual:
            raise ConfigError(
                "alpha and alpha_total are both given; give alpha for each certificate, or "
                "alpha_total for all of them together."
            )
