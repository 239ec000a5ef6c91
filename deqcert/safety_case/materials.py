"""The bill of materials: package, dependencies, model and data, in CycloneDX 1.6."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from deqcert import __version__
from deqcert.errors import ConfigError, RunError
from deqcert.files import read_regular
from deqcert.safety_case.kinds.trained import training_of
from deqcert.safety_case.run_folder import RunFolder

NAME = "bom.cdx.json"
_HASH = re.compile(r"[0-9a-f]{64}")


def bill(runs: Sequence[RunFolder], model: str, epoch: int | None) -> str:
    """Write the bill of a case.

    Args:
        runs: The runs of the case.
        model: Name of the model.
        epoch: Time to state, in seconds since 1970; None states none.

    Returns:
        The document: the same runs and installed packages give the same text.

    Raises:
        ConfigError: If the library for it is not installed.
    """
    try:
        from cyclonedx.model import HashAlgorithm, HashType, Property
        from cyclonedx.model.bom import Bom
        from cyclonedx.model.component import Component, ComponentType
        from cyclonedx.output.json import JsonV1Dot6
        from packageurl import PackageURL
    except ImportError:
        raise ConfigError(
            "a bill of materials needs a library; pip install 'deqcert[safety-case]'"
        ) from None

    def library(name: str, version: str, kind: ComponentType) -> Component:
        purl = PackageURL("pypi", None, name.lower().replace("_", "-"), version)
        return Component(
            name=name, version=version, type=kind, purl=purl, bom_ref=f"pypi:{name.lower()}"
        )

    packages = dict(installed())
    package = library("deqcert", __version__, ComponentType.FRAMEWORK)
    libraries = {
        name: library(name, version, ComponentType.LIBRARY)
        for name, (version, _) in packages.items()
        if name != "deqcert"
    }
    held = {**libraries, "deqcert": package}
    digests = sorted({run.subject for run in runs if run.subject is not None})
    weights = Component(
        name=model,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref="model",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest) for _, digest in digests],
        properties=[
            Property(name=f"deqcert:{what}_sha256", value=digest) for what, digest in digests
        ],
    )
    data = []
    for name, split, digest in data_sets(runs):
        hashed = (
            [HashType(alg=HashAlgorithm.SHA_256, content=digest)] if _HASH.fullmatch(digest) else []
        )
        data.append(
            Component(
                name=f"{name} ({split})",
                type=ComponentType.DATA,
                bom_ref=f"data:{name}:{split}:{digest}",
                hashes=hashed,
                properties=[Property(name="deqcert:data_hash", value=digest)],
            )
        )
    identity = json.dumps([model, digests, data_sets(runs), [run.name for run in runs]])
    bom = Bom(
        components=[*libraries.values(), package, *data],
        serial_number=uuid.uuid5(uuid.NAMESPACE_URL, f"deqcert-safety-case:{identity}"),
    )
    bom.metadata.component = weights
    # The library's own default is the time of day; a case has none but what it is told.
    bom.metadata.timestamp = (
        None if epoch is None else datetime.fromtimestamp(epoch, UTC)  # type: ignore[assignment]
    )
    bom.metadata.properties = [
        Property(name=f"deqcert:run:{run.name}:{key}", value=str(value))
        for run in runs
        for key, value in run.manifest.last_environment.items()
    ]
    for name, (_, needs) in packages.items():
        bom.register_dependency(held[name], [held[other] for other in needs if other in held])
    bom.register_dependency(weights, [package, *data])
    made = json.loads(JsonV1Dot6(bom).output_as_string())
    return json.dumps(made, indent=2, sort_keys=True) + "\n"


def installed(root: str = "deqcert") -> Iterator[tuple[str, tuple[str, list[str]]]]:
    """Yield a package and all that it needs, as far as it is installed.

    Args:
        root: The package.

    Yields:
        Name, version, and the names of what it needs directly, extras left out; names in small
        letters with dashes.
    """
    from packaging.requirements import Requirement

    waiting, seen = [root], {root}
    while waiting:
        name = waiting.pop(0)
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        wanted = [Requirement(line) for line in found.requires or ()]
        needs = sorted(
            {
                _normal(line.name)
                for line in wanted
                if line.marker is None or line.marker.evaluate({"extra": ""})
            }
        )
        yield name, (found.version, needs)
        waiting += [other for other in needs if other not in seen]
        seen |= {*needs}


def data_sets(runs: Sequence[RunFolder]) -> list[tuple[str, str, str]]:
    """Return name, split and hash of all data that runs are about, each once, in order."""
    keys = ("data", "split", "data_hash")
    found = {
        (str(was["data"]), str(was.get("split", "")), str(was["data_hash"]))
        for was in (run.parameters for run in runs)
        if all(key in was for key in keys)
    }
    record = training_of(runs)
    if "train" in record.get("data_sha256", {}):
        name = str(record["parameters"]["data"]).partition(":")[0]
        found.add((name, "train", str(record["data_sha256"]["train"])))
    return sorted(found)


def read_bill(folder: Path) -> list[dict[str, str]]:
    """Return name, version and kind of every component of a case's bill, the model first.

    Raises:
        RunError: If it is missing or no bill.
    """
    try:
        content: Any = json.loads(read_regular(folder / NAME))
        parts = [content["metadata"]["component"], *content.get("components", ())]
        return [
            {
                "name": str(part["name"]),
                "version": str(part.get("version", "")),
                "type": str(part["type"]),
                "sha256": str((part.get("hashes") or [{"content": ""}])[0]["content"]),
            }
            for part in parts
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise RunError(f"{folder / NAME} is no bill of materials; make the case again") from None


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
