"""Do the terms of `gaussian-latent` make latents Gaussian? Before and after, on digits.

    python benchmarks/latent_terms.py

Contractive encoders of equal epochs: cross-entropy alone, the mixture's loss, and that with a term
for isotropy or for the maximum mean discrepancy. The head lda is fitted to each by `deqcert
fit-latent`, and certified by `latent` (T over a proven L). Written: results/latent_terms.md.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np

from deqcert.certifiers.metrics import average_certified_radius
from deqcert.cli import main as deqcert
from deqcert.report import read_results

RESULTS = Path(__file__).resolve().parent / "results"
SETTINGS = {
    "gaussian (before)": (),
    "gaussian-latent": ("distance=6",),
    "isotropy=1": ("isotropy=1",),
    "isotropy=10": ("isotropy=10",),
    "mmd=10": ("mmd=10",),
    "mmd=100": ("mmd=100",),
}


def run(*given: str) -> None:
    """Give a command in this process."""
    if deqcert([*given, "--threads", "1", "--quiet"]):
        raise SystemExit(f"failed: {' '.join(given)}")


def row(name: str, terms: tuple[str, ...], work: Path, epochs: int) -> str:
    """Train, fit, certify; return a row of the table."""
    folder = work / name.replace(" ", "-")
    model, head = folder / "m.pth", folder / "m-lda.pth"
    options = [word for term in terms for word in ("--objective-option", term)]
    if not model.exists():
        run(
            *("train", "--architecture", "contractive", "--data", "digits", "--sigma", "0.1"),
            *("--objective", "gaussian-latent" if terms else "gaussian", *options, "--augment"),
            *("none", "--epochs", str(epochs), "--batch", "128", "--test-draws", "1"),
            *("--out", str(folder), "--name", "m"),
        )
    if not head.exists():
        run("fit-latent", "--model", str(model), "--data", "digits", "--out", str(head))
    run(
        *("certify", "--model", str(head), "--data", "digits", "--method", "latent"),
        *("--images", "0:200", "--out", str(folder / "run")),
    )
    found = json.loads(head.with_suffix(".json").read_text(encoding="utf-8"))["measured"]
    certified = read_results(folder / "run", name)
    classes = found["normality"]
    return (
        f"| {name} | {100 * found['accuracy']:.1f} | {100 * found['accuracy_of_own_readout']:.1f} "
        f"| {np.nanmean([one['excess'] for one in classes]):+.1f} "
        f"| {sum(one['two_sample'] < 0.01 for one in classes)} of {len(classes)} "
        f"| {found['gap_estimate']:.1f} | {found['lipschitz']:.1f} "
        f"| {average_certified_radius(certified.correct, certified.radius):.4f} |"
    )


@click.command()
@click.option("--work", type=click.Path(path_type=Path), default=Path("runs/latent-terms"))
@click.option("--epochs", default=20, show_default=True)
def main(work: Path, epochs: int) -> None:
    """Compare, and write results/latent_terms.md."""
    rows = []
    for name, terms in SETTINGS.items():
        rows.append(row(name, terms, work, epochs))
        print(rows[-1], flush=True)
    text = [
        "# Do the terms of `gaussian-latent` make latents Gaussian?",
        "",
        "```",
        f"python benchmarks/latent_terms.py --epochs {epochs}",
        "```",
        "",
        f"Contractive encoders for digits, {epochs} epochs each, sigma 0.1, one seed; head lda, "
        "fitted to four fifths of the training images and measured on the rest; ACR by `latent` (T "
        "over L) on 200 test images. *Told apart*: classes whose held-out latents a two-sample "
        "test tells from the fit (p < 0.01).",
        "",
        "| objective | lda % | own last layer % | excess kurtosis | told apart | "
        "estimated gap, nats | proven L | ACR |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        *rows,
        "",
    ]
    (RESULTS / "latent_terms.md").write_text("\n".join(text), encoding="utf-8")


if __name__ == "__main__":
    main()
