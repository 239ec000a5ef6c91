"""Gaussian heads on CIFAR-10: an MDEQ under noise, its estimate, and an encoder that is proven.

    python benchmarks/latents_cifar10.py mdeq_small_noise25.pth.tar --data folder:DIR

The heads lda and qda are fitted to the latents of noisy training images by `deqcert fit-latent`.
Test images are certified under noise with the model's own last layer and with the heads, and some
of them by `latent-estimated`, which is UNSOUND and stands here as the published method does. A
contractive encoder is trained for a few minutes, so that its heads can be proven as well. All by
the commands that users give; what is in --work already is not made again. Written:
results/latents_cifar10.md.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import click
import numpy as np
from latents import RADII, certified, deqcert, measured, name_of

from deqcert.certifiers.metrics import average_certified_radius
from deqcert.report import Results

RESULTS = Path(__file__).resolve().parent / "results"
DEPTH = ("--tol", "0", "--depth", "3")
SIGMA = ("--sigma", "0.25")


def fitted(model: Path, folder: Path, data: str, images: str) -> Path:
    """Fit both heads beside a name; return that name, to which the heads' endings are added."""
    base = folder / "model.pth"
    folder.mkdir(parents=True, exist_ok=True)
    for head in ("lda", "qda"):
        out = folder / f"model-{head}.pth"
        if not out.exists():
            deqcert(
                *("fit-latent", "--model", str(model), "--head", head, "--data", data, *SIGMA),
                *("--images", images, "--threads", "1", "--quiet", "--out", str(out)),
            )
    return base


def evaluations(folder: Path) -> float:
    """Return the mean number of cell evaluations of an image in a run folder."""
    head, *rows = (folder / "certificates.tsv").read_text(encoding="ascii").splitlines()
    place = head.split("\t").index("nfe")
    return float(np.mean([float(row.split("\t")[place]) for row in rows]))


def line(name: str, how: str, run: Results, nfe: float) -> str:
    """Return a row of the table."""
    shares = [f"{100 * np.mean(run.correct & (run.radius >= r)):.0f}" for r in RADII]
    acr = average_certified_radius(run.correct, run.radius)
    seconds = float(np.median(run.seconds))
    marked = f"{how} (UNSOUND)" if not run.sound else how
    cells = (name, marked, str(len(run)), *shares, f"{acr:.3f}", f"{nfe:.0f}", f"{seconds:.3f}")
    return f"| {' | '.join(cells)} |"


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--data", required=True, help="CIFAR-10, such as folder:DIR.")
@click.option("--work", type=click.Path(path_type=Path), default=Path("runs/latents-cifar10"))
@click.option("--fit", default="::5", show_default=True, help="Training images for the heads.")
@click.option("--noise", default="::500", show_default=True, help="Test images under noise.")
@click.option("--guess", default="::1250", show_default=True, help="Test images for the estimate.")
@click.option("--prove", default="::50", show_default=True, help="Test images that are proven.")
@click.option("--n", default=500, show_default=True, help="Noisy copies per image.")
@click.option("--points", default=5, show_default=True, help="Batches of the estimate, and points.")
@click.option("--minutes", default=4.0, show_default=True, help="Training of the encoder.")
def main(
    model: Path,
    data: str,
    work: Path,
    fit: str,
    noise: str,
    guess: str,
    prove: str,
    n: int,
    points: int,
    minutes: float,
) -> None:
    """Fit, train, certify, and write results/latents_cifar10.md."""
    lines, told = [], []
    few = ("--method-option", f"batches={points}", "--method-option", f"points={points}")
    trained = work / "contractive" / "own.pth"
    if not trained.exists():
        deqcert(
            *("train", "--data", data, "--architecture", "contractive", *SIGMA, "--augment"),
            *("none", "--minutes", f"{minutes:g}", "--test-draws", "1", "--threads", "1"),
            *("--quiet", "--name", "own", "--out", str(trained.parent)),
        )
    for name, checkpoint in (("MDEQ-SMALL", model), ("contractive", trained)):
        folder = work / name.lower()
        base = fitted(checkpoint, folder, data, fit)
        for head in ("lda", "qda"):
            fit_of = measured(base, head)
            told.append(
                f"| {name} | {head} | {100 * fit_of['accuracy']:.1f} | "
                f"{100 * fit_of['accuracy_of_own_readout']:.1f} | "
                f"{100 * fit_of['curves']['predicted'][0]:.1f} | "
                f"{'none' if fit_of['lipschitz'] is None else format(fit_of['lipschitz'], '.1f')} |"
            )
        own = ("--model", str(checkpoint))
        smooth = ("--method", "standard", *SIGMA, "--n", str(n), "--images", noise)
        if checkpoint is model:
            smooth = (*smooth, *DEPTH)
        for how, ending, given in (
            ("own last layer, noise", "", smooth),
            ("lda, noise", "-lda", smooth),
            ("qda, noise", "-qda", smooth),
            ("lda, estimate", "-lda", ("--method", "latent-estimated", *few, "--images", guess)),
            (
                "qda, estimate, published T",
                "-qda",
                (
                    *("--method", "latent-estimated", "--method-option", "formula=published"),
                    *(*few, "--images", guess),
                ),
            ),
            ("lda, proven T over L", "-lda", ("--method", "latent", "--images", prove)),
            ("qda, proven T over L", "-qda", ("--method", "latent", "--images", prove)),
            ("lda, proven pair by pair", "-lda", ("--method", "lipschitz", "--images", prove)),
        ):
            if "proven" in how and checkpoint is model:
                continue
            # The model's own checkpoint may lie elsewhere.
            more = (*given, *own) if not ending else given
            found = certified(data, base, ending, how, more)
            lines.append(line(name, how, found, evaluations(folder / name_of(how))))
            print(lines[-1], flush=True)
    command = (
        f"python benchmarks/latents_cifar10.py mdeq_small_noise25.pth.tar --data folder:DIR "
        f"--fit {fit} --noise {noise} --guess {guess} --prove {prove} --n {n} --points {points} "
        f"--minutes {minutes:g}"
    )
    picture = work / "contractive" / "model-lda.png"
    shutil.copyfile(picture, RESULTS / "latents_cifar10_fit.png")
    (RESULTS / "latents_cifar10.md").write_text(page(told, lines, command), encoding="utf-8")


def page(told: list[str], lines: list[str], command: str) -> str:
    """Return the page."""
    return "\n".join(
        [
            "# Gaussian heads on CIFAR-10",
            "",
            "```",
            command,
            "```",
            "",
            "## The fits",
            "",
            "To latents of noisy training images (sigma 0.25); accuracy on the fifth that was held "
            "out.",
            "",
            "| model | head | accuracy % | own last layer % | predicted % | proven L |",
            "| --- | --- | ---: | ---: | ---: | ---: |",
            *told,
            "",
            "![lda on the contractive encoder: measured and predicted, each with its band]"
            "(latents_cifar10_fit.png)",
            "",
            "## Certified accuracy",
            "",
            "l2 in [0, 1] pixels, % of the test images; cell evaluations of an image (a product "
            "with a Jacobian counts as one), and its seconds on a shared core, median. Under noise "
            "it is the MDEQ's 3-evaluation classifier that is certified.",
            "",
            "| model | how | images | "
            + " | ".join(f"r = {r:g}" for r in RADII)
            + " | ACR | evaluations | s |",
            "| --- | --- | ---: |" + " ---: |" * (len(RADII) + 2),
            *lines,
            "",
        ]
    )


if __name__ == "__main__":
    main()
