"""What the site shows besides docs/*.md, so that nothing is written twice.

mkdocs calls these functions (``hooks`` in mkdocs.yml). Added are a page for each public package and
module of deqcert, the command line's reference, the project's own pages (CONTRIBUTING.md and so on)
and the benchmarks' results. Links in all of them are written as they hold in the repository; here
they become links within the site, or to the repository for what the site does not show.
"""

from __future__ import annotations

import ast
import functools
import os
import posixpath
import re
from pathlib import Path

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
SOURCE = "https://github.com/deqcert/deqcert"
PACKAGE = ROOT / "deqcert"
PROJECT = ("CONTRIBUTING", "CHANGELOG", "SECURITY", "CODE_OF_CONDUCT")
RESULTS = ROOT / "benchmarks" / "results"
# [text](target "title") and ![text](target); targets with a scheme or within the page stay.
LINK = re.compile(r"(\[[^\]]*\]\()(?![a-z]+:|#)([^)\s#]+)(#[^)\s]*)?((?:\s[^)]*)?\))")
FENCE = re.compile(r"^(```.*?^```)", re.MULTILINE | re.DOTALL)


def public_modules() -> list[str]:
    """Packages and modules right below deqcert, and deqcert itself, that have something public.

    Left out are the command line, which has its own reference, and folders without code.
    """
    names = []
    for path in sorted(PACKAGE.iterdir()):
        inside = path / "__init__.py" if path.is_dir() else path
        name = path.stem
        if not inside.is_file() or inside.suffix != ".py" or name.startswith("_") or name == "cli":
            continue
        tree = ast.parse(inside.read_text(encoding="utf-8"))
        if any(not isinstance(node, ast.Expr | ast.ImportFrom) for node in tree.body):
            names.append(name)
    return ["deqcert", *(f"deqcert.{name}" for name in names)]


def stubbed(name: str) -> list[str]:
    """Where the names of a package come from that is loaded lazily, as its stub says."""
    stub = PACKAGE.joinpath(*name.split(".")[1:], "__init__.pyi")
    if not stub.is_file():
        return []
    return [
        f"{name}.{node.module}.{alias.name}"
        for node in ast.parse(stub.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ImportFrom) and node.level == 1
        for alias in node.names
    ]


def api_page(name: str) -> str:
    """A page of a package or module: all that it makes public."""
    shown = "    options: { show_root_heading: true, show_root_toc_entry: true }"
    blocks = [f"# {name}\n", f"::: {name}\n"]
    return "\n".join([*blocks, *(f"::: {path}\n{shown}\n" for path in stubbed(name))])


@functools.cache
def pages() -> dict[str, Path | str]:
    """Each added page's place in the site, with the file in the repository or the text itself."""
    added: dict[str, Path | str] = {"reference/commands.md": command_reference()}
    names = public_modules()
    for name in names[1:]:
        added[f"reference/{name}.md"] = api_page(name)
    front = [f"- [`deqcert.{n.rpartition('.')[2]}`][{n}]\n" for n in stubbed("deqcert")]
    rooms = [f"- [{name}]({name}.md)\n" for name in names[1:]]
    added["reference/deqcert.md"] = "\n".join(
        ["# deqcert\n", "::: deqcert\n", *front, "## Packages\n", *rooms]
    )
    for name in PROJECT:
        added[f"project/{name.lower()}.md"] = ROOT / f"{name}.md"
    for path in sorted(RESULTS.glob("*.md")) + sorted(RESULTS.glob("*.png")):
        added[f"results/{path.name}"] = path
    return added


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Complete the navigation."""
    sections = {title: items for section in config.nav for title, items in section.items()}
    places = [place for place in pages() if place.endswith(".md")]
    sections["Reference"] += [
        {"API": [{Path(p).stem: p} for p in places if p.startswith("reference/deqcert")]}
    ]
    sections["Project"] += [p for p in places if p.startswith("project/")]
    sections["Results"] += [p for p in places if p.startswith("results/")]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for place, origin in pages().items():
        if isinstance(origin, Path):
            files.append(File.generated(config, place, content=origin.read_bytes()))
        else:
            files.append(File.generated(config, place, content=origin))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links of the repository into links of the site."""
    origin = pages().get(page.file.src_uri, ROOT / "docs" / page.file.src_uri)
    if not isinstance(origin, Path):
        return markdown
    # Where each file of the repository stands in the site.
    sited = {path: place for place, path in pages().items() if isinstance(path, Path)}
    sited |= {ROOT / "docs" / f.src_uri: f.src_uri for f in files if not f.generated_by}

    def moved(match: re.Match[str]) -> str:
        before, target, anchor, after = match.groups()
        path = Path(os.path.normpath(origin.parent / target))
        if not path.exists() or ROOT not in path.parents:
            raise PluginError(f"{origin.relative_to(ROOT)}: there is no {target} to link to")
        if path in sited:
            target = posixpath.relpath(sited[path], posixpath.dirname(page.file.src_uri) or ".")
        else:
            kind = "tree" if path.is_dir() else "blob"
            target = f"{SOURCE}/{kind}/main/{path.relative_to(ROOT).as_posix()}"
        return f"{before}{target}{anchor or ''}{after}"

    pieces = FENCE.split(markdown)
    return "".join(p if p.startswith("```") else LINK.sub(moved, p) for p in pieces)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Docstrings may name what they mean by a role, as in :func:`solve`; the name is enough."""
    return re.sub(r":[a-z]+:(<code>)", r"\1", html)


def command_reference() -> str:
    """Every command's help, from the commands themselves."""
    from deqcert.cli import group

    lines = ["# Command line", ""]

    def add(command: click.Command, name: str, parent: click.Context | None) -> None:
        context = click.Context(command, info_name=name, parent=parent)
        info = command.to_info_dict(context)
        usage = command.get_usage(context).removeprefix("Usage: ")
        if parent is not None:
            depth = "#" * min(len(context.command_path.split()), 4)
            lines.extend([f"{depth} {context.command_path}", ""])
        lines.extend([_text(info["help"]), "", "```text", " ".join(usage.split()), "```", ""])
        rows = [_row(param, context) for param in command.params]
        rows = [row for row in rows if row]
        if rows and parent is not None:
            lines.extend(["| Option | Default | |", "| --- | --- | --- |", *rows, ""])
        if isinstance(command, click.Group):
            for below in command.list_commands(context):
                found = command.get_command(context, below)
                assert found is not None
                add(found, below, context)

    add(group, "deqcert", None)
    return "\n".join(lines)


def _text(help_text: str | None) -> str:
    paragraphs = (help_text or "").replace("\b", "").split("\n\n")
    return "\n\n".join(_escaped(" ".join(p.split())) for p in paragraphs if p.strip())


def _escaped(text: str) -> str:
    for sign in ("|", "<", "*", "_", "["):
        text = text.replace(sign, "\\" + sign)
    return text


def _row(param: click.Parameter, context: click.Context) -> str | None:
    """One option as a table row: its names with what they take, default, help."""
    if not isinstance(param, click.Option):
        return None
    record = param.get_help_record(context)
    if record is None:  # a hidden option
        return None
    names, text = record
    extra = param.get_help_extra(context)
    default = extra.get("default", "")
    help_text = text.partition("  [")[0] if extra else text
    notes = [f"{extra['range']}"] if "range" in extra else []
    notes += ["required"] if "required" in extra else []
    said = _escaped(" ".join(help_text.split())) + "".join(f" *{_escaped(n)}*" for n in notes)
    shown = f"`{default}`" if default else ""
    return f"| `{names.replace('|', chr(92) + '|')}` | {shown} | {said} |"
