"""What MkDocs does to the pages beyond its plugins: pages from outside of docs/, equations, and the lines of our docstrings.

- Pages link to files of the repository by relative paths, as a repository browser needs it. The files in OUTSIDE become pages
  of the site, and links between the two trees are rewritten.
- A block fenced as `math` holds LaTeX, one equation a line. Matplotlib draws it as SVG paths: the page needs no script, no
  font and no network. The cost: only the part of LaTeX that Matplotlib knows.
- Docstrings list arguments as aligned lines (`frames  (T, 3, H, W) ...`), which Markdown would run together: they become lists.
"""

from __future__ import annotations

import html
import posixpath
import re
from pathlib import Path
from typing import Any

import griffe
from matplotlib import rc_context
from matplotlib.path import Path as Outline
from matplotlib.textpath import TextPath
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "DECISIONS.md",
    "vos/models/*/README.md",
    "vos/models/*/*.png",
    "vos/inference/sample/*.md",
)
"""Files of the repository that are part of the site, under the paths that they have there."""

_LINK = re.compile(r"\]\(([^)\s#:]+)(#[^)\s]*)?\)")
_MATH = re.compile(r"^```math\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SVG_STEPS = {Outline.MOVETO: "M", Outline.LINETO: "L", Outline.CURVE3: "Q", Outline.CURVE4: "C"}
_ENTRY = re.compile(r"( *)(\S+(?:, \S+)*) {2,}(\S.*)")


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add the pages and pictures from outside of docs/."""
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Rewrite links for the site, and draw equations."""
    here = page.file.src_uri
    place = f"docs/{here}" if (ROOT / "docs" / here).exists() else here

    def link(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(place), found[1]))
        if not (ROOT / target).is_file():
            return found[0]  # MkDocs names it, and stops
        in_site = target.removeprefix("docs/")
        return f"]({posixpath.relpath(in_site, posixpath.dirname(here) or '.')}{found[2] or ''})"

    return _MATH.sub(lambda found: equations(found[1]), _LINK.sub(link, markdown))


def equations(latex: str) -> str:
    """One line of HTML for lines of LaTeX."""
    lines = [line.strip() for line in latex.splitlines() if line.strip()]
    return "".join(f'<div class="equation">{_drawn(line)}</div>' for line in lines)


def _drawn(latex: str) -> str:
    """An SVG of one equation, in the colour of the text around it."""
    with rc_context({"mathtext.fontset": "stix"}):
        outline = TextPath((0, 0), f"${latex}$", size=20)
    (left, bottom), (right, top) = outline.get_extents().padded(1).get_points()
    steps = (
        "Z" if code == Outline.CLOSEPOLY else _SVG_STEPS[code] + " ".join(f"{value:.2f}" for value in points)
        for points, code in outline.iter_segments(curves=True, simplify=False)
    )
    size = f'width="{right - left:.0f}" height="{top - bottom:.0f}"'
    box = f'viewBox="{left:.2f} {-top:.2f} {right - left:.2f} {top - bottom:.2f}"'
    path = f'<path transform="scale(1 -1)" fill="currentColor" d="{"".join(steps)}"/>'
    return f'<svg role="img" aria-label="{html.escape(latex)}" {size} {box}>{path}</svg>'


class AlignedLines(griffe.Extension):
    """Docstrings as Markdown. mkdocstrings finds this class by itself."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(docstring: str) -> str:
    """Aligned lines as lists; what looks like markup but is none (`M*h*w`, `<name>`) as it is written."""
    return "\n\n".join(_block(block) for block in re.split(r"\n{2,}", docstring.strip()))


def _block(block: str) -> str:
    lines = block.splitlines()
    if all(line.startswith("    ") for line in lines):
        return block  # code
    made: list[str] = []
    indent = -1  # of the entry that is being read, -1 outside of a list
    for line in lines:
        found = _ENTRY.fullmatch(line)
        if found:
            made += ([""] if indent < 0 else []) + [f"- `{found[2]}`: {_plain(found[3])}"]
            indent = len(found[1])
        elif len(line) - len(line.lstrip()) > indent >= 0:
            made[-1] += f" {_plain(line.strip())}"
        else:
            made += ([""] if indent >= 0 else []) + [_plain(line)]
            indent = -1
    return "\n".join(made).strip()


def _plain(text: str) -> str:
    parts = text.split("`")
    parts[::2] = [re.sub(r"(?<=\w)\*(?=\w)", r"\\*", part).replace("<", "&lt;") for part in parts[::2]]
    return "`".join(parts)
