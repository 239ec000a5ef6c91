"""What a case does not claim: the risks that nothing in it measures."""

from __future__ import annotations

from collections.abc import Sequence

from deqcert.report import read_results
from deqcert.safety_case.kinds.certified import Certified
from deqcert.safety_case.kinds.trained import training_of
from deqcert.safety_case.run_folder import RunFolder


def not_claimed(runs: Sequence[RunFolder]) -> list[tuple[str, str]]:
    """Return what is not claimed, as headings and sentences.

    Args:
        runs: The runs of the case; their norms, forms and machines are named.
    """
    certified = [run for run in runs if isinstance(run.kind, Certified)]
    norms = sorted({read_results(run.folder).norm for run in certified})
    measured = f" Certificates here are in {' and '.join(norms)}." if norms else ""
    places = sorted({_evaluation(run) for run in runs} - {""})
    evaluated = f" Evaluated here: {'; '.join(places)}." if places else ""
    latent = [run.name for run in certified if run.parameters.get("method") == "latent"]
    return [
        *_learned(runs),
        (
            "Other norms",
            "A radius in one norm says nothing of perturbations that are small in another, beyond "
            f"what their size in the certified norm allows.{measured}",
        ),
        (
            "Changes of meaning",
            "Rotations, weather, patches, compression and anything else that people would call "
            "the same picture are covered as far as their size in the certified norm is within "
            "the radius, and no further.",
        ),
        (
            "Other inputs",
            "Certificates are about the very images of their runs. Accuracy among other images, "
            "and under a shift of the distribution, does not follow; coverage of prediction sets "
            "is promised for images drawn as those of the calibration.",
        ),
        (
            "Right answers",
            "A certificate says that the answer does not change, not that it is right.",
        ),
        (
            "Estimates",
            "What is marked as a measurement is counted on the images of its run. What an attack "
            "did not find may be there; agreement and coverage have the intervals that stand "
            "beside them.",
        ),
        (
            "Another classifier",
            "Certificates hold for the classifier that each run names: these weights with this "
            "solve, start, depth and form, smoothed where noise is drawn. One pass of the network, "
            "other weights or another depth have none.",
        ),
        (
            "Other forms and hardware",
            "Another machine, form or version of a library may round otherwise, and is then, "
            f"strictly, another classifier.{evaluated}",
        ),
        (
            "Divergences that are estimated",
            "A Kullback-Leibler gap between a fitted mixture and the true one is an estimate "
            "wherever the truth is not known; nothing here rests on one."
            + (
                f" {', '.join(latent)}: radii of method latent rest on the fitted mixture as it "
                "is stored, whatever its gap."
                if latent
                else ""
            ),
        ),
        (
            "Choosing among certificates",
            "A run that was repeated with other seeds until it pleased multiplies alpha by the "
            "number of tries; that it was not cannot be seen in its folder.",
        ),
        (
            "Who wrote it",
            "Checksums show that nothing changed since the case was made. They do not show who "
            "made it: keep or sign the hash of SHA256SUMS.",
        ),
        (
            "Harms, people and law",
            "Fairness, privacy, misuse and legal duties are outside of what these runs measure; "
            "so are all items of the framework that the table does not name.",
        ),
    ]


def _learned(runs: Sequence[RunFolder]) -> list[tuple[str, str]]:
    """Say so where a model was tested on what it was trained on."""
    trained = training_of(runs).get("data_sha256", {}).get("train")
    named = [run.name for run in runs if trained and run.parameters.get("data_hash") == trained]
    if not named:
        return []
    return [
        (
            "NEW IMAGES",
            f"{', '.join(named)}: figures are of the very images that the model was trained on; "
            "others are likely to be answered less well.",
        )
    ]


def _evaluation(run: RunFolder) -> str:
    was, with_ = run.parameters, run.manifest.last_environment
    words = [f"{key} {was[key]}" for key in ("device", "form", "kernels") if key in was]
    words += [str(with_["cpu"])] if with_.get("cpu") else []
    return ", ".join(words)
