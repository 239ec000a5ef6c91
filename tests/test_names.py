"""Names: one for each thing, importable, and none that hides a module."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import deqcert
from deqcert.attacks import ATTACKS, get_attack
from deqcert.errors import ConfigError
from deqcert.options import options_of
from deqcert.registry import Registry
from deqcert.solvers import SOLVERS, get_solver
from deqcert.solvers.gradients import GRADIENTS, get_gradient

ROOT = Path(deqcert.__file__).parent
PACKAGES = sorted(
    ".".join(("deqcert", *path.parent.relative_to(ROOT).parts))
    for path in ROOT.rglob("__init__.py")
)


@pytest.mark.parametrize(
    ("registry", "make"), [(SOLVERS, get_solver), (GRADIENTS, get_gradient), (ATTACKS, get_attack)]
)
def test_a_misspelled_option_is_answered_with_the_nearest_and_with_all(registry, make) -> None:
    for name in registry:
        thing = make(name)
        options = getattr(thing, "options", None) or options_of(type(thing))
        for option in options:
            with pytest.raises(ConfigError) as caught:
                make(name, **{f"{option}x": 1})
            said = f"{registry.kind} '{name}' has no option '{option}x'; did you mean {option}?"
            assert str(caught.value).startswith(said)
            assert all(known in str(caught.value).rpartition("it has")[2] for known in options)


def test_other_packages_can_name_the_entry_points_of_every_registry() -> None:
    """Groups are words with dots between; the packaging specification allows no others."""
    groups: dict[int, str] = {}
    for path in sorted(ROOT.rglob("*.py")):
        if "] = Registry(" in path.read_text(encoding="utf-8"):
            module = importlib.import_module(
                ".".join(("deqcert", *path.relative_to(ROOT).with_suffix("").parts))
            )
            found = [thing for thing in vars(module).values() if isinstance(thing, Registry)]
            groups |= {id(registry): registry.plural for registry in found}
    assert len(groups) > 10
    assert len(set(groups.values())) == len(groups)
    assert not [group for group in groups.values() if not re.fullmatch(r"\w+", group)]


@pytest.mark.parametrize("name", PACKAGES)
def test_what_a_package_offers_is_there_and_hides_no_module(name: str) -> None:
    """``from deqcert.room import thing`` must not depend on which module was imported before."""
    package = importlib.import_module(name)
    modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
    for exported in getattr(package, "__all__", ()):
        found = getattr(package, exported)
        assert isinstance(found, ModuleType) or exported not in modules, f"{name}.{exported}"


OWN = {"MDEQ", "MDEQConfig", "ContractiveDEQ", "ContractiveConfig"}
"""Classes of single models: outside their room a model is asked what it can, not what it is."""


def test_nobody_outside_the_models_names_a_single_one() -> None:
    for path in ROOT.rglob("*.py"):
        if path.relative_to(ROOT).parts[0] == "models":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imported = {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert not (imported | attributes) & OWN, path


@pytest.mark.parametrize(
    "names",
    [
        "deqcert.models:ARCHITECTURES",
        "deqcert.models:ZOO",
        "deqcert.models:FORMS",
        "deqcert.starts:STARTS",
        "deqcert.data:LOADERS",
    ],
)
def test_names_are_listed_without_importing_what_they_name(names: str) -> None:
    """So that help and completion answer at once."""
    module, _, registry = names.partition(":")
    code = (
        f"import sys, {module}\n"
        f"assert {module}.{registry}.names()\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
