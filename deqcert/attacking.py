"""A finished run under attack: its classifier again, as it was certified, and its certificates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deqcert.api import SmoothedClassifier
from deqcert.attacks import ATTACKS
from deqcert.errors import ConfigError, Interrupted, RunError
from deqcert.options import number, parse_pairs
from deqcert.settings import Spreading

if TYPE_CHECKING:
    from deqcert.attack_work import AttackWork
    from deqcert.attacks import Attack
    from deqcert.attacks.evaluation import CertifiedImage, Evaluation, Outcome
    from deqcert.certifiers import Norm
    from deqcert.compose import Loaded
    from deqcert.data import Dataset
    from deqcert.report import Results
    from deqcert.report.attacks import Attacked
    from deqcert.runs import Manifest, Run
    from deqcert.smoothing import Predictor


@dataclass(frozen=True, kw_only=True)
class Attacking:
    """How certificates are attacked.

    Args:
        n: Fresh noisy copies of a verdict.
        alpha: Probability that any verdict of the whole run is wrong, shared by all of them.
        search: Noisy copies of a guess on the way to a verdict.
        reach: Largest radius attacked; if not given, 6 sigma, or the largest certified radius if
            that is more, and for proofs twice the largest certified radius.
        rows: Images or noisy copies that are differentiated together; less takes less memory.
        seed: Seed of the attacks and the verdicts.
    """

    n: int = number(1000, low=1, metavar="N")
    alpha: float = number(0.001, above=0, below=1, metavar="A")
    search: int = number(100, low=1, metavar="S")
    reach: float | None = number(None, above=0, whole=False, metavar="R")
    rows: int = number(256, low=1, metavar="R")
    seed: int = number(0, low=0, high=2**64 - 1)


NOISE = ("n", "alpha", "search")
"""Fields that are about noise alone."""


@dataclass(frozen=True, kw_only=True)
class Certified:
    """A finished run, and where its parts are now.

    Attributes:
        run: The run folder, as it was given.
        manifest: Its manifest.
        results: Its certificates.
        chosen: Which of them are attacked, by place.
        asked: How.
        model: The checkpoint, if it is elsewhere now.
        model_config: Its configuration, if it is elsewhere now.
        data: The images, if they are elsewhere now.
        start: The learned start, if it is elsewhere now.
    """

    run: str
    manifest: Manifest
    results: Results
    chosen: range
    asked: Attacking
    model: str | None = None
    model_config: str | None = None
    data: str | None = None
    start: str | None = None

    @classmethod
    def of_run(
        cls, run: str | Path, choose: Callable[[int], range], asked: Attacking, **places: str | None
    ) -> Certified:
        """Read a finished run.

        Args:
            run: The run folder.
            choose: Returns the places that are attacked of so many images.
            asked: How.
            **places: Where its parts are now, see the attributes.

        Raises:
            RunError: If it is no finished run.
            ConfigError: If a learned start is given for certificates that are of none.
        """
        from deqcert.attacks.evaluation.certified import learned_start
        from deqcert.report import read_results
        from deqcert.runs import Manifest

        manifest = Manifest.read(Path(run))
        if manifest is None:
            raise RunError(f"{run} is no run folder; give one that deqcert certify has finished")
        results = read_results(run)
        if results.pending:
            raise RunError(f"{run} is not a finished run of deqcert certify; finish it first")
        if places.get("start") and learned_start(manifest) is None:
            raise ConfigError(
                f"the certificates of {run} are of no learned start; leave --start out"
            )
        return cls(
            run=str(run),
            manifest=manifest,
            results=results,
            chosen=choose(len(results)),
            asked=asked,
            **places,
        )

    @property
    def noise(self) -> bool:
        """Whether its certificates are about a smoothed classifier."""
        return "predictor" in self.manifest.parameters

    @property
    def about(self) -> str:
        """What was certified, in a few words."""
        about = self.results.about or "the model"
        return f"{about}, smoothed" if self.noise else about

    @property
    def images(self) -> list[CertifiedImage]:
        """The chosen images and their certificates."""
        from deqcert.attacks.evaluation import CertifiedImage

        return [
            CertifiedImage(
                int(self.results.idx[i]),
                int(self.results.predict[i]) if self.results.predict[i] >= 0 else None,
                float(self.results.radius[i]),
            )
            for i in self.chosen
        ]

    @property
    def classifier(self) -> SmoothedClassifier:
        """The classifier, as it was evaluated, with the attacks' seed."""
        was, notes = self.manifest.parameters, self.manifest.notes
        noise = {name: was[name] for name in ("sigma", "batch", "shape") if self.noise}
        return SmoothedClassifier(
            self.model or notes["model"],
            model_config=self.model_config or (notes.get("config") if self.model is None else None),
            seed=self.asked.seed,
            device=was["device"],
            threads=was["threads"],
            form=was["form"],
            **noise,
        )


@dataclass(frozen=True)
class Prepared:
    """All that it takes to attack a run.

    Attributes:
        work: The attacks and what they are held against.
        machine: How the classifier is evaluated.
        dataset: Where the images are.
        parameters: What decides the outcomes, as JSON values.
        notes: Paths as they were given.
    """

    work: AttackWork
    machine: SmoothedClassifier
    dataset: Dataset
    parameters: dict[str, Any]
    notes: dict[str, Any]


@dataclass(frozen=True)
class Finished:
    """Certificates that were attacked.

    Attributes:
        folder: The run folder of the attacks.
        evaluation: The attacks.
        attacked: The outcomes.
        radii: Where accuracy was summed up.
        rows: The summary: see :func:`deqcert.report.attacks.attack_rows`.
        alpha: Probability that any verdict is wrong; 0 for proofs.
    """

    folder: Path
    evaluation: Evaluation
    attacked: Attacked
    radii: list[float]
    rows: list[dict[str, Any]]
    alpha: float


def parse_attack(text: str) -> Attack:
    """Read NAME[:KEY=VALUE,...].

    Raises:
        ConfigError: If there is no such attack or option, or a value is out of range.
    """
    name, _, pairs = text.partition(":")
    attack = ATTACKS.get(name)
    given = pairs.split(",") if pairs else []
    return attack.with_options(**parse_pairs("attack option", given, attack.options))


def attack_certificates(
    certified: Certified,
    attacks: Sequence[Attack],
    out: Path,
    *,
    tell: Callable[[Outcome, Run], None],
    note: Callable[[str], None],
    radii: list[float] | None = None,
    spread: Spreading | None = None,
) -> Finished:
    """Attack a run into a folder; called again, it goes on where it stopped.

    Args:
        certified: The run.
        attacks: Those that were named; none for all that fit.
        out: Folder of the attacks.
        tell: Called after each image.
        note: Called with a sentence about what a reader should know.
        radii: Where accuracy is summed up; None for the usual grid.
        spread: Who attacks; this process alone if not given.

    Raises:
        DeqcertError: If model, images or start are not those that were certified, an attack does
            not fit the certificates, or the folder holds something else.
        Interrupted: On Ctrl-C; what was attacked is safe.
    """
    from deqcert import compose
    from deqcert.models import file_hash
    from deqcert.report.attacks import attack_rows, draw_attacks, read_attacks
    from deqcert.report.tables import radii_until
    from deqcert.runs import Run, machine, versions

    made_ready = prepare(certified, attacks, note)
    work, images = made_ready.work, certified.images
    evaluation = work.evaluation
    executor = compose.make_executor(spread or Spreading(), made_ready.machine)
    parameters = {
        "certificates": file_hash(Path(certified.run) / "certificates.tsv"),
        **made_ready.parameters,
    }
    with Run(
        out,
        parameters,
        [image.index for image in images],
        environment={**versions(), **machine()},
        notes={**made_ready.notes, "run": certified.run},
        layout=evaluation.layout,
    ) as made:
        for change in made.changes:
            note(f"{change} since this run began; recorded")
        try:
            evaluation.run(
                made,
                images,
                made_ready.dataset,
                lambda outcome: tell(outcome, made),
                partial(executor.results, work),
            )
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted; {made.done} of {len(images)} images are safe in {out}, "
                "and the same command goes on from there"
            ) from None
        attacked, reach = read_attacks(out), max(evaluation.grid)
        at = radii or [r for r in radii_until(reach, evaluation.norm) if r <= reach * (1.0 + 1e-9)]
        rows = attack_rows(attacked, at)
        alarms = {str(image): list(names) for image, names in attacked.alarms.items()}
        made.finish({"radii": at, "rows": rows, "alarms": alarms})
        title = f"Attacks on {certified.about}"
        draw_attacks(attacked, out / "attacks.png", reach=reach, title=title)
    alpha = float(parameters.get("alpha", 0.0))
    return Finished(out, evaluation, attacked, at, rows, alpha)


def prepare(
    certified: Certified, attacks: Sequence[Attack], note: Callable[[str], None]
) -> Prepared:
    """Load what was certified and make the evaluation.

    Args:
        certified: The run.
        attacks: Those that were named; none for all that fit.
        note: Called with a sentence about what a reader should know.

    Raises:
        DeqcertError: If model, images or start are not those that were certified, or an attack does
            not fit the certificates.
    """
    from deqcert import compose
    from deqcert.data import load_dataset

    smooth = certified.classifier
    was = certified.manifest.parameters
    spec, split = certified.data or certified.manifest.notes["data"], was["split"]
    loaded = compose.load(smooth.model, smooth, model_config=smooth.model_config)
    dataset = load_dataset(spec, split)
    compose.check_fit(loaded.model, dataset, range(len(dataset)))
    about = {**loaded.identity, **compose.describe_data(spec, split, dataset)}
    make = _smoothed if certified.noise else _proven
    work, more = make(certified, smooth, loaded, about, attacks, note)
    return Prepared(work, smooth, dataset, more, {**loaded.notes, "data": spec})


def _smoothed(
    certified: Certified,
    smooth: SmoothedClassifier,
    loaded: Loaded,
    about: dict[str, Any],
    attacks: Sequence[Attack],
    note: Callable[[str], None],
) -> tuple[AttackWork, dict[str, Any]]:
    from deqcert import compose
    from deqcert.attack_work import AttackWork
    from deqcert.attacks.evaluation.certified import certified_predictor
    from deqcert.starts import make_start

    was, asked = certified.manifest.parameters, certified.asked
    levels = was.get("levels")
    about = {**about, **compose.describe_evaluation(smooth, was["sigma"], loaded.form, levels)}
    _check(certified, about, note)
    predictor, depth = certified_predictor(
        certified.manifest,
        lambda: make_start(certified.start or "learned", model=smooth.model, device=smooth.device)[
            0
        ],
    )
    make = partial(
        _hold_against_noise,
        smooth=smooth,
        levels=levels,
        predictor=predictor,
        depth=depth,
        attacks=attacks or [ATTACKS.get(name) for name in ATTACKS.names()],
        images=certified.images,
        asked=asked,
        facts=_facts(smooth),
    )
    work = AttackWork(make, loaded, smooth)
    return work, {
        **work.evaluation.parameters(),
        "alpha": asked.alpha,
        "judged": compose.describe_predictor(predictor),
        **about,
    }


def _hold_against_noise(
    loaded: Loaded,
    *,
    smooth: SmoothedClassifier,
    levels: int | None,
    predictor: Predictor,
    depth: int | None,
    attacks: Sequence[Attack],
    images: Sequence[CertifiedImage],
    asked: Attacking,
    facts: dict[str, Any],
) -> Evaluation:
    from deqcert import compose
    from deqcert.attacks.evaluation import SmoothedEvaluation

    engine = compose.make_engine(loaded.model, smooth, smooth.noise_level, levels)
    return SmoothedEvaluation.of_run(
        engine,
        predictor,
        # Gradients go through the model as it was trained; verdicts through the form certified.
        loaded.plain.eval().to(engine.device),  # type: ignore[attr-defined]
        attacks,
        images,
        n=asked.n,
        alpha=asked.alpha,
        guesses=asked.search,
        depth=depth,
        reach=asked.reach,
        rows=asked.rows,
        facts=facts,
    )


def _proven(
    certified: Certified,
    smooth: SmoothedClassifier,
    loaded: Loaded,
    about: dict[str, Any],
    attacks: Sequence[Attack],
    note: Callable[[str], None],
) -> tuple[AttackWork, dict[str, Any]]:
    from deqcert import compose
    from deqcert.attack_work import AttackWork

    asked = certified.asked
    norm: Norm = "linf" if certified.results.norm == "linf" else "l2"
    about = {**about, **compose.describe_evaluation(smooth, None, loaded.form)}
    _check(certified, about, note)
    fitting = attacks or [
        attack
        for attack in map(ATTACKS.get, ATTACKS.names())
        if norm in attack.norms and not attack.smoothed
    ]
    make = partial(
        _hold_against_proof,
        attacks=fitting,
        images=certified.images,
        norm=norm,
        asked=asked,
        facts=_facts(smooth),
    )
    work = AttackWork(make, loaded, smooth)
    return work, {**work.evaluation.parameters(), "norm": norm, "seed": asked.seed, **about}


def _hold_against_proof(
    loaded: Loaded,
    *,
    attacks: Sequence[Attack],
    images: Sequence[CertifiedImage],
    norm: Norm,
    asked: Attacking,
    facts: dict[str, Any],
) -> Evaluation:
    from deqcert.attacks.evaluation import ProvenEvaluation

    return ProvenEvaluation.of_run(
        loaded.plain.eval(),  # type: ignore[attr-defined]
        attacks,
        images,
        norm=norm,
        reach=asked.reach,
        rows=asked.rows,
        seed=asked.seed,
        facts=facts,
    )


def _facts(smooth: SmoothedClassifier) -> dict[str, Any]:
    """Return what an alarm must name besides seed and noise."""
    from deqcert.models import file_hash

    return {"model": file_hash(smooth.model)}


def _check(certified: Certified, about: dict[str, Any], note: Callable[[str], None]) -> None:
    from deqcert.attacks.evaluation.certified import check_same

    for change in check_same(certified.manifest, about, certified.run):
        note(f"{change} since the certificates were made")
