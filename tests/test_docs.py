"""What the documentation promises: its commands run, its flags, files and names exist.

A fence of `sh` or `python` in README.md and docs/tutorial.md is run, in the order of the page, as a reader would do it. What
cannot be run carries a comment in the line before its fence, `<!-- not run: REASON -->`, or is a line of NOT_RUN; it is skipped
with that reason.
The flags of every command of every page are parsed in `make test`; running the pages takes minutes and is marked slow.
`make lint` builds the pages (mkdocs, strict), which checks their links.
"""

from __future__ import annotations

import ast
import importlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
GENERATED = ("docs/results.md", "docs/unseen.md", "docs/licences.md")
HISTORY = ("CHANGELOG.md", "DECISIONS.md")
"""Pages that name files of earlier states."""
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", "cluster/*.md")
    for path in ROOT.glob(pattern)
    if path.relative_to(ROOT).as_posix() not in GENERATED
)
RUN = ("README.md", "docs/tutorial.md")
NOT_RUN = {
    r"make (test|test-all)": "would run this test from within itself",
    r"make ui": "serves until it is stopped",
    r"make cluster-(up|down)": "tests/test_setup.py starts and stops that cluster",
}
"""Lines that are left out wherever they stand, and why."""
KNOWN_COMMANDS = {"source", "export", "ffmpeg", "pip", "cp", "cd", "rm", "ls", "git"}


class Block(NamedTuple):
    """A fence: its language, its text, the line of its first line, and why it is not run ("" where it is)."""

    language: str
    text: str
    line: int
    not_run: str


def blocks(page: str) -> Iterator[Block]:
    before, inside = "", None
    for number, line in enumerate((ROOT / page).read_text(encoding="utf-8").splitlines(), 1):
        if inside is None and line.startswith("```"):
            reason = re.fullmatch(r"<!-- not run: (.+) -->", before.strip())
            inside = (line[3:].strip(), number + 1, reason[1] if reason else "", [])
        elif inside is not None and line.rstrip() == "```":
            language, start, not_run, lines = inside
            yield Block(language, "\n".join(lines) + "\n", start, not_run)
            inside = None
        elif inside is not None:
            inside[3].append(line)
        before = line
    assert inside is None, f"{page}: a fence is not closed"


def commands(text: str) -> Iterator[list[str]]:
    """The simple commands of a shell block, as words; a pipe or && gives several."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split = True
        words: list[str] = []
        for token in [*lexer, ";"]:
            if set(token) <= set("|&;"):
                if words:
                    yield words
                words = []
            elif words or not re.fullmatch(r"[A-Z_]+=.*", token):  # an assignment before the command
                words.append(token)


def shell_commands() -> Iterator[Any]:
    for page in PAGES:
        for block in blocks(page):
            if block.language == "sh":
                for words in commands(block.text):
                    yield pytest.param(words, id=f"{page}:{block.line} {' '.join(words)[:60]}")


def fault(words: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """What of a command does not exist, "" where all does."""
    program, rest = words[0], words[1:]
    if program == "make":
        targets = [word for word in rest if "=" not in word]
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        return "".join(f"no target {one}; " for one in targets if not re.search(rf"^{one}:", makefile, re.MULTILINE))
    if program.endswith("/ray"):
        return fault(rest[rest.index("--") + 1 :], monkeypatch) if "--" in rest else ""
    if Path(program).name in ("python", "pytest"):
        if rest[0] == "-m" and rest[1].startswith("jobs."):
            return parse_fault(rest[1], rest[2:], monkeypatch)
        if rest[0] == "-m":
            return "" if find_spec(rest[1]) else f"no module {rest[1]}"
        return ""  # a file that an earlier command wrote; running the page tells
    return "" if program in KNOWN_COMMANDS else f"{program} is no command that this test knows"


def parse_fault(module: str, argv: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether a job accepts these flags, without running it."""
    from vos.config.command_line import parse_config
    from vos.errors import InputError

    if find_spec(module) is None:
        return f"no module {module}"
    job = importlib.import_module(module)
    if "--config" in argv:  # the file is made by the user's own run
        argv = argv[: argv.index("--config")] + argv[argv.index("--config") + 2 :]
    faults: list[str] = []

    def only_parse(cls: type[Any], description: str, _: Any, given: list[str] | None = None) -> int:
        try:
            parse_config(cls, description, given or [])
        except InputError as error:
            faults.append(str(error))
        return 0

    monkeypatch.setattr(job, "run_job", only_parse)
    job.main(argv)
    return "; ".join(faults)


@pytest.mark.parametrize("words", shell_commands())
def test_every_command_of_the_documentation_has_its_program_and_its_flags(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fault(words, monkeypatch) == ""


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("python -m jobs.cache --drawz 3", "--drawz"),
        ("python -m jobs.train --optimiser.lr fast", "fast"),
        ("python -m jobs.nothing --out x", "jobs.nothing"),
        ("make nothing", "nothing"),
        ("curl example.org", "curl"),
        (".venv/bin/ray job submit -- python -m jobs.train --modell x", "--modell"),
    ],
)
def test_a_wrong_command_is_found(command: str, named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    [words] = commands(command)
    assert named in fault(words, monkeypatch)


@pytest.mark.parametrize("page", PAGES)
def test_python_of_the_documentation_compiles_and_imports_what_exists(page: str) -> None:
    for block in blocks(page):
        assert block.language in ("", "sh", "python", "math"), (
            f"{page}, line {block.line}: {block.language} is not tested"
        )
        if block.language != "python":
            continue
        for node in ast.walk(ast.parse(block.text)):
            if isinstance(node, ast.ImportFrom) and node.module:
                module = importlib.import_module(node.module)
                names = [one.name for one in node.names]
                missing = [one for one in names if not (hasattr(module, one) or find_spec(f"{node.module}.{one}"))]
                assert missing == [], f"{page}, line {block.line}: {node.module} has no {missing}"


@pytest.mark.parametrize("page", [page for page in PAGES if page not in HISTORY])
def test_every_file_that_a_page_names_exists(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = re.findall(r"`((?:jobs|pipelines|vos|cluster|tests|docs)/[\w./*-]*)`", text)
    named += re.findall(r"\b((?:jobs|pipelines|vos|cluster|tests)/[\w/-]+\.py)\b", text)
    place = (ROOT / page).parent
    linked = [target for target in re.findall(r"\]\(([^)\s#]+)", text) if "://" not in target]
    missing = [name for name in named if "NAME" not in name and not list(ROOT.glob(name.rstrip("/")))]
    assert missing + [target for target in linked if not (place / target).exists()] == []


def definitions(path: Path) -> set[str]:
    """Names at the top of a module, and `Class.method` for its classes."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


def test_every_equation_of_the_method_names_code_that_exists() -> None:
    text = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    places = re.findall(r"`((?:vos|pipelines)/[\w/]+\.py)`((?:[:,]\s+`[\w.]+`)+)", text)
    assert len(places) > 10
    missing = [
        f"{path}: {name}"
        for path, names in places
        for name in re.findall(r"`([\w.]+)`", names)
        if name not in definitions(ROOT / path)
    ]
    assert missing == []
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        assert "```math" not in section or "**Code**" in section, f"{section.splitlines()[0]}: no place in the code"


def pieces() -> Iterator[Any]:
    """What the pages run, block by block, and what they leave out, each with its reason."""
    for page in RUN:
        for block in blocks(page):
            if block.language not in ("sh", "python"):
                continue
            lines, kept = block.text.splitlines(), []
            for number, line in enumerate(lines, block.line):
                reason = next((why for what, why in NOT_RUN.items() if re.match(rf"{what}\b", line)), "")
                if reason and block.language == "sh" and not block.not_run:
                    left = Block("sh", line, number, reason)
                    yield pytest.param(page, left, id=f"{page}:{number} {line.split('#')[0].strip()}")
                else:
                    kept.append(line)
            if any(line.strip() for line in kept):
                yield pytest.param(page, block._replace(text="\n".join(kept) + "\n"), id=f"{page}:{block.line}")


def make_video(folder: Path) -> None:
    """clip.mp4 and mask.png, which the README takes as given."""
    import av
    from PIL import Image

    from vos.data.synthetic import synthetic_index

    video = synthetic_index(1, num_frames=12, size=(144, 256), seed=1)[0]
    Image.fromarray((video.mask(0) == 2).astype("uint8")).save(folder / "mask.png")
    with av.open(str(folder / "clip.mp4"), "w") as file:
        stream: Any = file.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 256, 144, "yuv420p"
        for index in range(video.num_frames):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(video.frame(index), format="rgb24")))
        file.mux(stream.encode(None))


@pytest.fixture(scope="module")
def checkouts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Page -> a checkout of links with a video, so that what the commands write (runs/, overlay.mp4, ...) stays apart."""
    made = {}
    for page in RUN:
        made[page] = folder = tmp_path_factory.mktemp(Path(page).stem)
        for entry in ROOT.iterdir():
            if entry.name not in ("runs", "build", ".git", ".venv"):
                (folder / entry.name).symlink_to(entry)
        (folder / ".venv").symlink_to(sys.prefix)
        make_video(folder)
    return made


@pytest.mark.slow
@pytest.mark.parametrize(("page", "block"), pieces())
def test_a_reader_can_run_the_page_block_by_block(page: str, block: Block, checkouts: dict[str, Path]) -> None:
    """In the order of the page; a block finds what the ones before it wrote."""
    if block.not_run:
        pytest.skip(f"left out: {block.not_run}")
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "MAKE", "PYTEST"))
    }
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # an activated .venv
    command, given = ["bash", "-euo", "pipefail", "-c", block.text], ""
    if block.language == "python":
        command, given = [sys.executable, "-"], block.text
    done = subprocess.run(
        command, cwd=checkouts[page], env=environment, input=given, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, "\n".join((done.stdout + done.stderr).splitlines()[-60:])


# --- docs/hooks.py ---


@pytest.fixture(scope="module")
def hooks() -> Any:
    spec = spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_aligned_lines_of_a_docstring_become_a_list(hooks: Any) -> None:
    docstring = "Read it.\n\nkey      (B, M*h*w), `a*b`,\n         any rows\nreturns  <name>\nRaises InputError."
    expected = "Read it.\n\n- `key`: (B, M\\*h\\*w), `a*b`, any rows\n- `returns`: &lt;name>\n\nRaises InputError."
    assert hooks.as_markdown(docstring) == expected


def test_prose_and_code_of_a_docstring_stay_as_they_are(hooks: Any) -> None:
    docstring = "One line.\nAnother.\n\n    engine = Engine(model)  # code\n    engine.start(frame)"
    assert hooks.as_markdown(docstring) == docstring


def test_an_equation_is_one_line_of_paths_in_the_colour_of_the_text(hooks: Any) -> None:
    html = hooks.equations("C = Z Z^T\n\\dfrac{1}{N} < 1\n")
    assert html.count("<svg") == 2 and "\n" not in html and "currentColor" in html
    assert 'aria-label="\\dfrac{1}{N} &lt; 1"' in html


@pytest.mark.parametrize(
    ("page", "link", "expected"),
    [
        ("cache.md", "[a](performance.md)", "[a](performance.md)"),
        ("cache.md", "[a](../DECISIONS.md#1)", "[a](DECISIONS.md#1)"),
        ("DECISIONS.md", "[a](docs/cache.md)", "[a](cache.md)"),
        ("vos/models/builtin_student/README.md", "![a](j-over-time.png)", "![a](j-over-time.png)"),
        ("cache.md", "[a](../nothing.md)", "[a](../nothing.md)"),
    ],
)
def test_links_between_docs_and_the_repository_are_those_of_the_site(
    page: str, link: str, expected: str, hooks: Any
) -> None:
    assert hooks.on_page_markdown(link, SimpleNamespace(file=SimpleNamespace(src_uri=page))) == expected
