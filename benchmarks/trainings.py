"""Make the models and starts of results/trainings again, from the records that are kept there.

    python benchmarks/trainings.py --mnist mnist:DIR --cifar10 cifar10:DIR [NAME...]

Each record holds its command, and by hash the model that it went on from. The commands are run in
that order into runs/trainings/NAME, what is there already is not made again, and an interrupted
training goes on. --list shows the commands and their minutes instead. Most trainings were given
minutes rather than epochs: what comes out has other bits, and differs by the machine's speed.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import click

RECORDS = Path(__file__).resolve().parent / "results" / "trainings"
# Starts without a record: results/objectives_mnist.md and results/study_golden.md tell of them.
MNIST_START = "train-start --sigma 0.5 --divergence 10 --minutes 2.5 --augment none --threads 1"
STARTS = {
    "mnist-gaussian-0": ("model.start", MNIST_START),
    "mnist-consistency-0": ("model.start", MNIST_START),
    "mnist-smoothadv-0": ("model.start", MNIST_START),
    "mnist-macer15-0": ("model.start", MNIST_START),
    "cifar10-golden-start": (
        "second.start",
        "train-start --sigma 0.25 --minutes 14 --divergence 10 --threads 1",
    ),
}
PLACES = ("--data", "--test-data", "--model", "--init", "--out", "--name")


@dataclass(frozen=True)
class Job:
    """One file of weights, and what makes it."""

    folder: str
    file: str  # without its ending
    words: list[str]  # the command, without what names files and data
    needs: Path | None  # weights under RECORDS' names; None: random ones, or the given checkpoint
    measured: dict[str, object]
    minutes: float

    @property
    def start(self) -> bool:
        return self.words[0] == "train-start"

    @property
    def made(self) -> Path:
        return Path(self.folder) / f"{self.file}.pth"

    def command(self, out: Path, data: str, checkpoint: str | None) -> list[str]:
        """The command line without the program, with files and data where they are now."""
        words = [*self.words, "--data", data]
        if not self.start:
            words += ["--name", self.file, "--out", str(out / self.folder)]
            return words + (["--init", str(out / self.needs)] if self.needs else [])
        words += ["--out", str(out / self.made)]
        if self.folder in STARTS and self.file != STARTS[self.folder][0]:
            words += ["--init", str(out / self.folder / f"{STARTS[self.folder][0]}.pth")]
        return [*words, "--model", str(out / self.needs) if self.needs else str(checkpoint)]


def stripped(words: list[str]) -> list[str]:
    """A command without the options that name files and data."""
    kept = [words[0]]
    for option, value in zip(words[1::2], words[2::2], strict=True):
        if option not in PLACES:
            kept += [option, value]
    return kept


def jobs() -> list[Job]:
    """Every file of weights, each after what it needs."""
    records = {path: json.loads(path.read_text()) for path in sorted(RECORDS.glob("*/*.json"))}
    by_hash = {
        record["checkpoint_sha256"]: Path(path.parent.name) / f"{path.stem}.pth"
        for path, record in records.items()
        if "checkpoint_sha256" in record
    }
    found = []
    for path, record in records.items():
        before = record.get("model_sha256") or record["data_sha256"].get("init")
        found.append(
            Job(
                path.parent.name,
                path.stem,
                stripped(shlex.split(record["command"])[1:]),
                by_hash.get(before),
                record["measured"],
                record["seconds"] / 60,
            )
        )
    for folder, (file, command) in STARTS.items():
        words = command.split()
        model = Path(folder) / "model.pth" if file == "model.start" else None
        minutes = float(words[words.index("--minutes") + 1])
        found.append(Job(folder, file, words, model, {}, minutes))
    depth: dict[Path, int] = {}
    for _ in found:  # as many passes as the longest chain could need
        for job in found:
            depth[job.made] = 1 + depth.get(job.needs, 0) if job.needs else 0
    # A start that goes on from another one has its record; what it goes on from has none.
    return sorted(found, key=lambda j: (depth[j.made], j.start, bool(j.measured), str(j.made)))


@click.command(help=__doc__.split("\n", 1)[0])
@click.argument("names", nargs=-1)
@click.option("--mnist", metavar="DATA", help="MNIST, as deqcert's --data takes it.")
@click.option("--cifar10", metavar="DATA", help="CIFAR-10, as deqcert's --data takes it.")
@click.option("--checkpoint", metavar="FILE", help="The public MDEQ-SMALL checkpoint (sigma 0.25).")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/trainings"))
@click.option("--list", "only_list", is_flag=True, help="Show the commands and their minutes.")
def main(
    names: tuple[str, ...],
    mnist: str | None,
    cifar10: str | None,
    checkpoint: str | None,
    out: Path,
    only_list: bool,
) -> None:
    unknown = set(names) - {job.folder for job in jobs()}
    if unknown:
        raise click.UsageError(f"there is no record of {', '.join(sorted(unknown))}.")
    if not (mnist or cifar10 or only_list):
        raise click.UsageError("give --mnist, --cifar10 or both, or --list.")
    if only_list:
        mnist, cifar10 = mnist or "mnist:DIR", cifar10 or "cifar10:DIR"
        checkpoint = checkpoint or "FILE"
    made = {job.made: job for job in jobs()}
    wanted: set[Path] = set()
    for job in made.values():
        if not names or job.folder in names:
            step: Job | None = job
            while step is not None:  # and all that it goes on from
                wanted.add(step.made)
                step = made[step.needs] if step.needs else None
    for job in made.values():
        data = mnist if job.folder.startswith("mnist") else cifar10
        lacking = data is None or (job.start and job.needs is None and checkpoint is None)
        if job.made not in wanted or (out / job.made).exists():
            continue
        if lacking:
            print(f"left out, its data or checkpoint is not given: {job.made}", flush=True)
            continue
        assert data is not None
        command = job.command(out, data, checkpoint)
        print(f"# {job.minutes:.0f} minutes\ndeqcert {shlex.join(command)}", flush=True)
        if only_list:
            continue
        (out / job.folder).mkdir(parents=True, exist_ok=True)
        done = subprocess.run([sys.executable, "-m", "deqcert", *command], check=False)
        if done.returncode:
            sys.exit(done.returncode)
        if "noisy_accuracy" in job.measured:
            now = json.loads((out / job.made).with_suffix(".json").read_text())["measured"]
            was, here = job.measured["noisy_accuracy"], now["noisy_accuracy"]
            print(f"noisy accuracy {here}, in the record {was}", flush=True)


if __name__ == "__main__":
    main()
