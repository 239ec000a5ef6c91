"""Who stays below the truth? One real image, every start and depth, three ways of counting.

    python benchmarks/soundness.py

The image is number 2 of the reference archive that lies beside the MDEQ-SMALL checkpoint (folder
named by DEQCERT_GOLDEN). A large cold sample says which radius the classifier can have at most; a
method that reports more is wrong about this image.
"""

from __future__ import annotations

import os
from pathlib import Path

import click
import numpy as np
import torch

from deqcert.certifiers import get_certifier
from deqcert.certifiers.bounds import certified_radius, lower_confidence_bound
from deqcert.models import load_model
from deqcert.smoothing import Input, Predictor, SmoothingEngine, Votes
from deqcert.solvers import StopRule, get_solver
from deqcert.starts import get_start, start_names

SIGMA, ALPHA, IMAGE, LARGE = 0.25, 0.001, 2, 1_000_000
ROOT = Path(__file__).resolve().parent


class RememberingEngine(SmoothingEngine):
    """An engine that classifies no sample twice in the same way; answers are unchanged."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]
        self.single: dict[tuple[str, int, int], tuple[int, float]] = {}
        self.chains: dict[tuple[str, int, int], Votes] = {}

    def classify(self, predictor, x, image, stage, samples):  # type: ignore[no-untyped-def]
        """Classify, looking up what is known."""
        name = predictor.describe()
        if not predictor.independent:
            key = (name, stage, len(samples))
            if key not in self.chains:
                self.chains[key] = super().classify(predictor, Input(x, image), stage, samples)
            return self.chains[key]
        new = np.array([i for i in samples if (name, stage, i) not in self.single], dtype=np.int64)
        if len(new):
            votes = super().classify(predictor, Input(x, image), stage, new)
            for i, answer in zip(new, votes.predictions, strict=True):
                self.single[name, stage, i] = (int(answer), votes.nfe / len(new))
        known = [self.single[name, stage, i] for i in samples]
        return Votes(
            np.array([answer for answer, _ in known], dtype=np.int16),
            10,
            round(sum(nfe for _, nfe in known)),
            0.0,
            np.zeros(len(known), dtype=np.float32),
        )


@click.command()
@click.option("--n", default=1000, show_default=True, help="Votes of a certificate.")
@click.option("--cold", default=4000, show_default=True, help="Samples of the large cold vote.")
@click.option("--audit", default=400, show_default=True, help="Audited samples.")
@click.option("--depth", default=30, show_default=True, help="Evaluations of a cold solve.")
@click.option("--seed", default=0, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=ROOT / "results" / "soundness.md")
def main(n: int, cold: int, audit: int, depth: int, seed: int, threads: int, out: Path) -> None:
    """Write the table."""
    torch.set_num_threads(threads)
    folder = Path(os.environ.get("DEQCERT_GOLDEN", ROOT.parent / "../shared/golden"))
    model = load_model(folder / "mdeq_small_noise25.pth.tar")
    with np.load(folder / "mdeq_small_noise25.npz") as archive:
        x = archive["x"][IMAGE].astype(np.float32) / 255
    engine = RememberingEngine(model, sigma=SIGMA, seed=seed, batch=100)
    solver, fixed = get_solver("anderson"), StopRule(tol=0, max_nfe=depth)
    reference = Predictor(solver, fixed)

    truth = engine.votes(reference, Input(x, IMAGE), LARGE, cold).counts
    guess = int(truth.argmax())
    p_upper = 1 - lower_confidence_bound(cold - int(truth[guess]), cold, ALPHA)
    limit = certified_radius(p_upper, SIGMA)
    lines = [
        f"# One image, three counts (MDEQ-SMALL, sigma {SIGMA}, alpha {ALPHA}, n={n}, K={audit})",
        "",
        f"`python benchmarks/soundness.py --n {n} --cold {cold} --audit {audit} --depth {depth} "
        f"--seed {seed}`",
        "",
        f"{int(truth[guess])} of {cold} cold solves of {depth} evaluations vote for class {guess}: "
        f"radius about {certified_radius(truth[guess] / cold, SIGMA):.3f}, and with confidence "
        f"{1 - ALPHA} at most {limit:.3f}.",
        "",
        "| start | steps | votes for the class | serialized | serialized-paper | "
        "serialized-released (UNSOUND) |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for start in start_names()[1:]:
        for steps in (1, 2, 3, 5):
            stop = StopRule(tol=0, max_nfe=steps)
            warm = Predictor(solver, stop, get_start(start), warmup=fixed)
            cells = []
            for method in ("serialized", "serialized-paper", "serialized-released"):
                certificate = get_certifier(
                    method, warm, reference=reference, n0=100, n=n, alpha=ALPHA, audit=audit
                ).certify(engine, Input(x, IMAGE))
                above = " **above the truth**" if certificate.radius > limit else ""
                cells.append(f"{certificate.radius:.3f}{above}")
            lines.append(
                f"| {start} | {steps} | {certificate.votes} of {n} | {' | '.join(cells)} |"
            )
            click.echo(lines[-1])
    standard = get_certifier("standard", reference, n0=100, n=n, alpha=ALPHA)
    certificate = standard.certify(engine, Input(x, IMAGE))
    lines += [
        "",
        f"Standard smoothing, cold {depth}: {certificate.votes} of {n} votes, radius "
        f"{certificate.radius:.3f}.",
    ]
    out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
