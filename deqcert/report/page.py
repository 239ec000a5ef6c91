"""One self-contained HTML page of an evaluation: nothing is loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deqcert import __version__
from deqcert.errors import ConfigError
from deqcert.files import check_writable, write_atomically


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: What it says.
        shade: From 0 to 1, how much of a colour is behind it; None for none.
    """

    text: str
    shade: float | None = None


@dataclass(frozen=True)
class TableBlock:
    """A table in its own box.

    Attributes:
        caption: What it shows.
        head: Names of the columns; the first column is a row's name.
        rows: Cells or texts.
        words: How many of the last columns are words, not figures.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    words: int = 0


@dataclass(frozen=True)
class FigureBlock:
    """A figure.

    Attributes:
        caption: What it shows.
        svg: The figure, an SVG element.
    """

    caption: str
    svg: str


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        key: Its anchor.
        title: Its title.
        says: What it says, in one sentence for somebody new.
        figures: Its figures.
        tables: Its tables.
        notes: What a reader should know, in small letters.
        missing: What could not be measured, and why: a sentence each.
        command: What makes its figures again.
    """

    key: str
    title: str
    says: str
    figures: Sequence[FigureBlock] = ()
    tables: Sequence[TableBlock] = ()
    notes: Sequence[str] = ()
    missing: Sequence[str] = ()
    command: str = ""


def render(title: str, lead: str, sections: Sequence[Section], facts: Mapping[str, str]) -> str:
    """Put a page together.

    Args:
        title: What stands above it.
        lead: A sentence below that.
        sections: In order.
        facts: What it was made with, by name.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    folder = Path(__file__).parent
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string((folder / "page.html.j2").read_text(encoding="utf-8"))
    return template.render(
        title=title,
        lead=lead,
        sections=sections,
        facts=facts,
        version=__version__,
        svg=Markup,
    )


def write_page(
    path: Path, title: str, lead: str, sections: Sequence[Section], facts: Mapping[str, str]
) -> None:
    """Write a page, whole or not at all; see :func:`render`.

    Raises:
        RunError: If it cannot be written.
    """
    text = render(title, lead, sections, facts).encode("utf-8", "xmlcharrefreplace")
    write_atomically(path, text, "give the page another name")


def check_page(path: str | Path) -> Path:
    """Refuse a name that no page can be written to, before anything is read for it.

    Raises:
        ConfigError: If it does not end in .html, or there is no such folder.
        RunError: If nothing can be written there.
    """
    target = Path(path)
    if target.suffix.lower() not in {".html", ".htm"}:
        raise ConfigError(f"cannot write a page to {target}: the name must end in .html")
    if not target.parent.is_dir():
        raise ConfigError(f"cannot write to {target}: there is no folder {target.parent}")
    if target.is_dir():
        raise ConfigError(f"cannot write to {target}: there is a folder of that name")
    check_writable(target, "give the page another name")
    return target


def percent(share: float | None, digits: int = 1) -> str:
    """Write a share in percent; a dash for none."""
    return "\N{EN DASH}" if share is None else f"{100 * share:.{digits}f}"
