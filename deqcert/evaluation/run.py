"""An evaluation: every part of every model, each on its own, kept in one folder."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deqcert.api import SmoothedClassifier
from deqcert.errors import ConfigError, DeqcertError, Interrupted, RunError
from deqcert.evaluation.attacked import alarms
from deqcert.evaluation.command import evaluate_command, line
from deqcert.evaluation.config import Evaluating
from deqcert.evaluation.corrupted import check_picture
from deqcert.evaluation.foreign import load_foreign, short_name
from deqcert.evaluation.parts import PARTS
from deqcert.evaluation.subject import Foreign, Subject, classifier_for, describe
from deqcert.files import Lock, explain, read_regular, write_atomically
from deqcert.report.evaluation import (
    FORMAT,
    FORMAT_VERSION,
    NAME,
    PAGE,
    summary_rows,
    write_evaluation_page,
)
from deqcert.runs import Manifest, machine, versions
from deqcert.settings import Data, Spreading

if TYPE_CHECKING:
    from deqcert.attacks import Attack
    from deqcert.data import Dataset


@dataclass(frozen=True)
class Evaluated:
    """A finished evaluation.

    Attributes:
        folder: Where it is kept.
        found: All of it, as JSON values.
        alarms: A sentence for every certificate that an attack broke.
    """

    folder: Path
    found: dict[str, Any]
    alarms: list[str]

    @property
    def page(self) -> Path:
        """The page."""
        return self.folder / PAGE


def evaluate(
    models: Mapping[str, SmoothedClassifier],
    data: str,
    *,
    split: str = "test",
    images: str = ":",
    parts: Sequence[str] | None = None,
    asked: Evaluating | None = None,
    ood: Sequence[str] = (),
    runs: Sequence[str] = (),
    attacks: Sequence[Attack] = (),
    out: str | Path,
    given: Sequence[str] | None = None,
    spread: Spreading | None = None,
    progress: bool = False,
    tell: Callable[[str], None] = lambda sentence: None,
    note: Callable[[str], None] = print,
) -> Evaluated:
    """Evaluate models on images into a folder; called again, it does what is not done.

    Args:
        models: The classifiers by name.
        data: Name and place of a data set.
        split: Which part of it.
        images: Which images.
        parts: Names of :data:`PARTS`; None for all that can be.
        asked: How much of everything.
        ood: Foreign data sets.
        runs: Finished runs of the models, which are then not certified anew.
        attacks: Attacks in place of the usual ones.
        out: The folder.
        given: The models as a command line names them; their names if not given.
        spread: Who certifies and attacks; this process alone if not given. Where the models name
            no threads, every part has those that each of several workers gets.
        progress: Whether certifying shows how far it is.
        tell: Called with a line as each part ends.
        note: Called with a sentence about what a reader should know.

    Raises:
        DeqcertError: If what is asked for cannot be, before the first solve; or the folder holds
            something else.
        Interrupted: On Ctrl-C; finished parts are safe.
    """
    asked = Evaluating() if asked is None else asked
    chosen = Data(data=data, split=split, images=images)
    wanted = tuple(
        part for part in (PARTS.names() if parts is None else parts) if ood or part != "ood"
    )
    if parts is not None and "ood" in parts and not ood:
        raise ConfigError("part ood needs foreign data; give some, as in --ood mnist:DIR")
    folder = Path(out)
    spread = Spreading() if spread is None else spread
    models = {name: _sharing(model, spread) for name, model in models.items()}
    subjects = _subjects(models, chosen, asked, folder, ood, tuple(attacks), spread, progress, note)
    subjects = _with_runs(subjects, runs)
    if parts is not None and "corruptions" in parts:
        for subject in subjects:
            check_picture(subject)
    if {"certified", "attacks"} & set(wanted):
        for subject in subjects:
            _ = subject.classifier.certifier  # settings that cannot be are refused at once
    first = subjects[0]
    more = {"ood": list(ood), "run": list(runs), "attack": [a.describe() for a in attacks]}
    words = evaluate_command(
        list(models) if given is None else given, models[first.name], chosen, asked, more
    )
    manifest = _manifest(subjects, chosen, asked, runs)
    with _locked(folder):
        found = _begin(folder, manifest, subjects, wanted)
        found["commands"] = {
            "all": line(words, out=str(folder)),
            **{part: line(words, parts=part, out=str(folder)) for part in PARTS.names()},
        }
        try:
            for model, subject in zip(found["models"], subjects, strict=True):
                for part in wanted:
                    _measure(model["parts"], part, subject, tell)
                    _keep(folder, found)
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted; finished parts are safe in {folder}, and the same command goes on "
                "from there"
            ) from None
        found["summary"] = summary_rows(found)
        _keep(folder, found)
        write_evaluation_page(found, folder / PAGE)
    said = [
        sentence
        for model in found["models"]
        if model["parts"].get("attacks", {}).get("state") == "done"
        for sentence in alarms(model["parts"]["attacks"]["found"])
    ]
    return Evaluated(folder, found, said)


def name_models(given: Sequence[str]) -> dict[str, str]:
    """Read [NAME=]MODEL, and name what has no name by its file.

    Raises:
        ConfigError: If two have one name, or a name can be no folder's.
    """
    found: dict[str, str] = {}
    for text in given:
        name, equals, model = text.partition("=")
        if not equals or "/" in name:
            name, model = Path(text).name.partition(".")[0] or text, text
        if not re.fullmatch(r"\w[\w+-]{0,60}", name):
            raise ConfigError(
                f"{name[:80]!r} cannot be a model's name; give one of letters and digits, as in "
                "mine=FILE"
            )
        if not model:
            raise ConfigError(f"{name}= names no model; write it as in {name}=FILE")
        if name in found:
            raise ConfigError(
                f"two models are called {name}; give each a name of its own, as in {name}-2={model}"
            )
        found[name] = model
    return found


def _subjects(
    models: Mapping[str, SmoothedClassifier],
    chosen: Data,
    asked: Evaluating,
    folder: Path,
    ood: Sequence[str],
    attacks: tuple[Attack, ...],
    spread: Spreading,
    progress: bool,
    note: Callable[[str], None],
) -> list[Subject]:
    loaded: dict[tuple[int, ...], dict[str, Foreign]] = {}
    dataset: str | Dataset = chosen.data
    found = []
    for name, classifier in models.items():
        dataset, indices = classifier.dataset(dataset, split=chosen.split, images=chosen.images)
        shape = tuple(dataset.shape)
        if shape not in loaded:
            loaded[shape] = {
                called: load_foreign(spec, shape, asked.ood_images, dataset)
                for called, spec in _called(ood).items()
            }
        found.append(
            Subject(
                name=name,
                classifier=classifier_for(classifier, dataset),
                dataset=dataset,
                data=chosen.data,
                split=chosen.split,
                images=indices,
                asked=asked,
                folder=folder / name,
                attacks=attacks,
                ood=loaded[shape],
                progress=progress,
                note=note,
                spread=spread,
            )
        )
    return found


def _sharing(model: SmoothedClassifier, spread: Spreading) -> SmoothedClassifier:
    """Give a classifier the threads that it has in each of several workers."""
    from deqcert import compose

    if not spread.many or model.threads is not None:
        return model
    return replace(model, threads=compose.share_of_cores(spread))


def _called(ood: Sequence[str]) -> dict[str, str]:
    """Name foreign data sets in short, or by all that was given where that is not unique."""
    kinds = [short_name(spec) for spec in ood]
    found = {
        kind if kinds.count(kind) == 1 else spec: spec
        for kind, spec in zip(kinds, ood, strict=True)
    }
    if len(found) < len(ood):
        raise ConfigError("--ood is given twice with the same data; give each once")
    return found


def _with_runs(subjects: list[Subject], runs: Sequence[str]) -> list[Subject]:
    """Give each finished run to the model that it is of."""
    given: dict[str, list[Path]] = {subject.name: [] for subject in subjects}
    for run in runs:
        whole = (Path(run) / "certificates.tsv").is_file()
        manifest = Manifest.read(Path(run)) if whole else None
        if manifest is None:
            raise RunError(f"{run} is no run folder; give one that deqcert certify has finished")
        if manifest.parameters.get("data_hash") != subjects[0].dataset.hash():
            raise ConfigError(
                f"{run} is about other images than {subjects[0].data}; give the run's own data "
                "with --data, or leave --run out"
            )
        for subject in subjects:
            identity = subject.classifier.loaded.identity
            keys = ("checkpoint_sha256", "weights_sha256")
            if any(k in identity and manifest.parameters.get(k) == identity[k] for k in keys):
                given[subject.name].append(Path(run))
                break
        else:
            raise ConfigError(
                f"{run} is a run of another model than {', '.join(given)}; give that model, too, "
                "or leave --run out"
            )
    return [replace(subject, runs=tuple(given[subject.name])) for subject in subjects]


def _manifest(
    subjects: Sequence[Subject], chosen: Data, asked: Evaluating, runs: Sequence[str]
) -> Manifest:
    from deqcert import compose
    from deqcert.models import file_hash

    first = subjects[0]
    parameters = {
        "evaluation": {subject.name: describe(subject) for subject in subjects},
        **compose.describe_data(chosen.data, chosen.split, first.dataset),
        **asdict(asked),
        "ood": {name: foreign.sha256 for name, foreign in first.ood.items()},
        "runs": {run: file_hash(Path(run) / "certificates.tsv") for run in runs},
        "attacks": [attack.describe() for attack in first.attacks],
    }
    return Manifest(
        json.loads(json.dumps(parameters)),
        tuple(first.images),
        {**versions(), **machine()},
        {"data": chosen.data},
    )


def _locked(folder: Path) -> Lock:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise RunError(f"{folder} is a file; give a folder with --out") from None
    except OSError as error:
        raise explain(error, f"make the folder {folder}") from None
    busy = f"another process is writing {folder}; wait for it or give another folder with --out"
    return Lock(folder, busy)


def _begin(
    folder: Path, manifest: Manifest, subjects: Sequence[Subject], wanted: Sequence[str]
) -> dict[str, Any]:
    """Begin an evaluation, or read what is done of it.

    Raises:
        RunError: If the folder holds something else.
    """
    before = Manifest.read(folder)
    kept: dict[str, Any] = {}
    if before is None:
        others = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
        if others:
            raise RunError(
                f"{folder} holds {others[0]} and no evaluation; give an empty or new folder with "
                "--out"
            )
        manifest.write(folder)
    elif "evaluation" not in before.parameters:
        raise RunError(
            f"{folder} holds a run and no evaluation; give an empty or new folder with --out"
        )
    elif differing := before.differences(manifest):
        raise RunError(
            f"{folder} holds another evaluation ({'; '.join(differing[:4])}); give the "
            "earlier values to go on, or another folder with --out"
        )
    else:
        try:
            earlier = json.loads(read_regular(folder / NAME))
            kept = {model["name"]: model["parts"] for model in earlier["models"]}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise RunError(
                f"{folder / NAME} is damaged; remove it to measure again, or give another folder "
                "with --out"
            ) from None
    first = subjects[0]
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "data": {
            "name": short_name(first.data),
            "split": first.split,
            "images": len(first.images),
            "shape": "x".join(map(str, first.dataset.shape)),
        },
        "models": [
            {
                "name": subject.name,
                "model": str(subject.classifier.model),
                "form": subject.classifier.loaded.form,
                "parts": kept.get(subject.name, {}),
            }
            for subject in subjects
        ],
        "environment": {**manifest.environment},
    }


def _measure(
    parts: dict[str, Any], part: str, subject: Subject, tell: Callable[[str], None]
) -> None:
    """Measure a part that is not done; what goes wrong in it is kept as a sentence."""
    if parts.get(part, {}).get("state") == "done":
        return
    began = time.perf_counter()
    try:
        found = PARTS.get(part)(subject)
    except DeqcertError as error:
        parts[part] = {"state": "missing", "why": " ".join(str(error).split())}
    except Exception as error:  # a part must not cost the others, whatever it runs into
        said = " ".join(str(error).split())[:300] or "no reason given"
        parts[part] = {"state": "missing", "why": f"it ended in {type(error).__name__}: {said}"}
    else:
        seconds = round(time.perf_counter() - began, 3)
        parts[part] = {"state": "done", "seconds": seconds, "found": found}
        tell(f"{subject.name}: {part} ({seconds:.1f} s)")
        return
    tell(f"{subject.name}: {part} could not be measured: {parts[part]['why']}")


def _keep(folder: Path, found: Mapping[str, Any]) -> None:
    write_atomically(folder / NAME, json.dumps(found, indent=1) + "\n")
