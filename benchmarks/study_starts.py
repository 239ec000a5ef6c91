"""Which start and which depth certify best at what cost? The study behind docs/starts.md.

    python benchmarks/study_starts.py --model CKPT --config YAML --start FILE --data folder:DIR

Three parts, each on the same noisy copies for all of its settings:

- starts: cold, previous, mean, clean and learned at several depths, on few images with many votes,
  because what a chained start costs and gives depends on its audit.
- images: the independent ones of them on many images, for certified accuracy and ACR against cold
  solves of 30 evaluations.
- time: one image at n=10000: the released serialized method at one step with its audit of 400,
  against method independent with the learned start.

Written: results/study_NAME.md, .json and a picture. Run nothing beside it: it reports times.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np
import torch

from deqcert.bench.pictures import draw_bench
from deqcert.bench.starts import Bench, Measurement, Setting, bench, grid
from deqcert.certifiers import get_certifier
from deqcert.compose import early_stop
from deqcert.data import load_dataset
from deqcert.memory import keep_freed_memory
from deqcert.models import in_form, load_model
from deqcert.smoothing import Input, Predictor, SmoothingEngine
from deqcert.solvers import StopRule, get_solver
from deqcert.starts import Learned, get_start
from deqcert.starts.file import load_start

ROOT = Path(__file__).resolve().parent
ALPHA = 0.001
FULL = 30
"""Evaluations of the cold solve that the field takes for the converged one."""

COLD = StopRule(tol=1e-3, max_nfe=FULL)
"""How warm-ups and audits end."""


def stop(depth: int) -> StopRule:
    """A fixed depth."""
    return StopRule(tol=0.0, max_nfe=depth)


@click.command()
@click.option("--model", required=True, help="Checkpoint.")
@click.option("--config", help="Its YAML, if not beside it.")
@click.option("--start", required=True, help="What `deqcert train-start` wrote for it.")
@click.option("--data", required=True, help="As `deqcert certify --data` takes it.")
@click.option("--sigma", default=0.25, show_default=True)
@click.option("--few", default=8, show_default=True, help="Images of the part starts.")
@click.option("--few-n", default=1000, show_default=True, help="Votes there, a fifth audited.")
@click.option("--many", default=100, show_default=True, help="Images of the part images.")
@click.option("--many-n", default=500, show_default=True, help="Votes there.")
@click.option("--form", default="compiled", show_default=True)
@click.option("--batch", default=100, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--parts", default="starts,images,time", show_default=True)
@click.option("--name", default="golden", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=ROOT / "results")
def main(**given: object) -> None:
    """Run the parts asked for and write what they found."""
    study = Study(**given)  # type: ignore[arg-type]
    study.run()


class Study:
    """One model with its start, and what is measured on it."""

    def __init__(
        self,
        model: str,
        config: str | None,
        start: str,
        data: str,
        sigma: float,
        few: int,
        few_n: int,
        many: int,
        many_n: int,
        form: str,
        batch: int,
        threads: int,
        parts: str,
        name: str,
        out: Path,
    ) -> None:
        torch.set_num_threads(threads)
        keep_freed_memory()
        self.sigma, self.batch, self.name, self.out = sigma, batch, name, out
        self.few, self.few_n, self.many, self.many_n = few, few_n, many, many_n
        self.parts = parts.split(",")
        self.model = in_form(load_model(model, config).eval(), form, rows=batch)
        file = load_start(start, model)
        self.learned = Learned(file.net, file.cost)
        self.tuned = Predictor(
            get_solver("anderson"),
            stop(file.steps),
            self.learned,
            early=early_stop(file),
        )
        self.solver = self.tuned.solver
        self.dataset = load_dataset(data, "test")
        self.head = (
            f"sigma {sigma:g}, alpha {ALPHA:g}, form {form}, batch {batch}, {threads} threads, "
            f"torch {torch.__version__}; the learned start costs {file.cost:.2f} evaluations; as "
            f"tuned: {self.tuned.describe()}"
        )

    def run(self) -> None:
        """Run the parts and write after each."""
        self.out.mkdir(parents=True, exist_ok=True)
        path = self.out / f"study_{self.name}"
        text = [f"# Starts and depths: {self.name}", "", self.head, ""]
        found: dict[str, object] = {}
        for part in self.parts:
            if part == "time":
                lines = self.time()
            else:
                result = self.starts() if part == "starts" else self.images()
                found[part] = json.loads(result.json())
                draw_bench(result, f"{path}_{part}.png", title=f"{self.name}: {part}")
                lines = ["```", result.text(), "```"]
                if part == "images":
                    lines += ["", *self.verdict(result)]
            text += [f"## {part.capitalize()}", "", *lines, ""]
            path.with_suffix(".md").write_text("\n".join(text), encoding="utf-8")
            path.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
        print("\n".join(text))

    def chosen(self, count: int) -> list[int]:
        """Test images, evenly spaced."""
        return np.linspace(0, len(self.dataset) - 1, count).astype(int).tolist()

    def starts(self) -> Bench:
        """Every start at several depths, on few images."""
        settings = grid(
            {"anderson": self.solver},
            [*(get_start(name) for name in ("previous", "mean", "clean")), self.learned],
            [1, 2, 3, 5, 8],
            cold=COLD,
            tolerances=[COLD.tol],
        )
        settings.append(Setting(self.tuned, "anderson"))
        return self.measure(settings, self.few, self.few_n)

    def images(self) -> Bench:
        """Independent starts on many images."""
        cold = [Setting(Predictor(self.solver, stop(d)), "anderson", True) for d in (3, 4, 5, FULL)]
        cold.append(Setting(Predictor(self.solver, COLD), "anderson", True))
        if self.tuned.early is not None:
            early = Predictor(self.solver, stop(8), early=self.tuned.early)
            cold.append(Setting(early, "anderson", True))
        learned = [
            Setting(Predictor(self.solver, stop(depth), self.learned), "anderson")
            for depth in (1, 2, 3)
        ]
        return self.measure(
            [*cold, *learned, Setting(self.tuned, "anderson")], self.many, self.many_n
        )

    def measure(self, settings: list[Setting], images: int, n: int) -> Bench:
        """Measure settings on images with n votes each."""
        return bench(
            self.model,
            self.dataset,
            self.chosen(images),
            settings,
            sigma=self.sigma,
            reference=Predictor(self.solver, StopRule(tol=1e-4, max_nfe=60)),
            auditor=Predictor(self.solver, COLD),
            n=n,
            alpha=ALPHA,
            audit=n // 5,
            radii=[self.sigma * step for step in (0.0, 0.5, 1.0, 1.5, 2.0)],
            batch=self.batch,
            tell=lambda row: print(row.start, row.depth, f"{row.nfe_total:.2f}", flush=True),
        )

    def verdict(self, result: Bench) -> list[str]:
        """Compare every setting with cold solves of the full depth, and with the best cold one."""
        full = next(r for r in result.rows if r.start == "cold" and r.depth == str(FULL))

        def worst(row: Measurement) -> float:
            pairs = zip(row.certified, full.certified, strict=True)
            return max(abs(a - b) for a, b in pairs)

        cheap = [r for r in result.rows if r.start == "cold" and r.acr >= 0.99 * full.acr]
        best = min(cheap, key=lambda row: row.nfe_total)
        lines = [
            f"Against cold {FULL} (ACR {full.acr:.3f}); the cheapest cold solve with 99% of it "
            f"takes {best.nfe_total:.2f} evaluations per vote (depth {best.depth}).",
            "",
            "| start | depth | method | nfe all | fewer than cold 30 | fewer than the best cold "
            "| ACR % | largest difference of certified accuracy, points | times faster |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for row in result.rows:
            lines.append(
                f"| {row.start} | {row.depth} | {row.method} | {row.nfe_total:.2f} "
                f"| {full.nfe_total / row.nfe_total:.1f} | {best.nfe_total / row.nfe_total:.2f} "
                f"| {100 * row.acr / full.acr:.1f} | {100 * worst(row):.1f} "
                f"| {full.milliseconds / row.milliseconds:.1f} |"
            )
        return lines

    def time(self) -> list[str]:
        """One image at full n: the released method against ours."""
        n, image = 10000, self.chosen(3)[1]
        engine = SmoothingEngine(self.model, sigma=self.sigma, batch=self.batch)
        chained = Predictor(self.solver, stop(1), get_start("previous"), stop(FULL))
        reference = Predictor(self.solver, stop(FULL))
        one = Predictor(self.solver, stop(1), self.learned)
        contestants = [
            ("serialized-released", chained, {"reference": reference, "audit": 400}),
            ("serialized", chained, {"reference": reference, "audit": 400}),
            ("independent", self.tuned, {}),
            ("independent", one, {}),
        ]
        lines = [
            f"Image {image}, n={n}, n0=100. Audits and warm-ups of the chained methods: cold "
            f"{FULL}, as released.",
            "",
            "| method | predictor | radius | sound | nfe/vote | seconds | of the released time |",
            "|---|---|---|---|---|---|---|",
        ]
        x = self.dataset.image(image)
        first = None
        for name, predictor, more in contestants:
            certifier = get_certifier(name, predictor, n0=100, n=n, alpha=ALPHA, **more)
            answer = certifier.certify(engine, Input(x, image))
            first = first or answer.seconds
            lines.append(
                f"| {name} | {predictor.describe()} | {answer.radius:.3f} | {answer.sound} "
                f"| {answer.nfe / n:.2f} | {answer.seconds:.1f} | {answer.seconds / first:.2f} |"
            )
        return lines


if __name__ == "__main__":
    main()
