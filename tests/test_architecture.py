"""The rules of the tree, read from its source: who imports whom, what a job file is, that importing has no effect."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("jobs", "pipelines", "vos")
MAY_IMPORT = {"jobs": {"jobs", "pipelines", "vos"}, "pipelines": {"pipelines", "vos"}, "vos": {"vos"}}
JOBS_TAKE_FROM_VOS = {"vos.config"}
LEAF = "pipelines.studies"
JOB_LINES = range(15, 41)

# Calls that change the process, the file system or a library's state: nothing of that may happen on import.
EFFECTS = {
    *("makedirs", "mkdir", "mkdtemp", "touch", "unlink", "rmtree", "write_text", "write_bytes", "open"),
    *("getenv", "putenv", "unsetenv", "load_dotenv", "chdir", "expanduser", "getcwd", "cwd"),
    *("basicConfig", "dictConfig", "fileConfig", "addHandler", "setLevel", "captureWarnings"),
    *("seed", "manual_seed", "seed_everything", "use_deterministic_algorithms"),
    *("filterwarnings", "simplefilter", "set_num_threads", "set_num_interop_threads", "setNumThreads"),
    *("set_default_dtype", "set_default_device", "set_float32_matmul_precision", "set_grad_enabled"),
    *("set_tracking_uri", "set_experiment", "init", "run", "Popen", "print", "is_available"),
}
DEFERRED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def sources(*packages: str) -> list[Path]:
    return sorted(path for package in packages for path in (ROOT / package).rglob("*.py"))


def label(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported_modules(tree: ast.Module, package: str) -> Iterator[str]:
    """Dotted names that a module imports anywhere, with `from a import b` as `a.b`; relative ones made absolute."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and call_name(node) in ("import_module", "__import__"):
            yield from (a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str))


def call_name(node: ast.Call) -> str:
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def import_faults(source: str, module: str) -> list[str]:
    """What `module` (dotted) imports and may not."""
    layer, package = module.split(".")[0], module.rpartition(".")[0] or module
    faults = []
    for name in imported_modules(ast.parse(source), package):
        top = name.split(".")[0]
        if top in LAYERS and top not in MAY_IMPORT[layer]:
            faults.append(f"{module} imports {name}: imports point down only, jobs -> pipelines -> vos")
        if top == "tests" or top == "cluster":
            faults.append(f"{module} imports {name}: the product does not depend on {top}")
        if layer == "vos" and top in ("ray", "mlflow"):
            faults.append(f"{module} imports {name}: vos knows neither Ray nor MLflow")
        if top == "mlflow" and module.split(".")[:2] != ["pipelines", "tracking"]:
            faults.append(f"{module} imports {name}: only pipelines/tracking/ imports mlflow")
        if f"{name}.".startswith(f"{LEAF}.") and layer != "jobs" and not f"{module}.".startswith(f"{LEAF}."):
            faults.append(f"{module} imports {name}: only jobs and {LEAF} itself import {LEAF}")
        if layer == "jobs" and top == "vos" and not any(f"{name}.".startswith(f"{m}.") for m in JOBS_TAKE_FROM_VOS):
            faults.append(f"{module} imports {name}: a job takes from vos only {sorted(JOBS_TAKE_FROM_VOS)}")
    return faults


def run_on_import(tree: ast.Module) -> Iterator[ast.AST]:
    """Every node that is evaluated when the module is imported."""
    queue: list[ast.AST] = [tree]
    while queue:
        node = queue.pop()
        yield node
        if isinstance(node, DEFERRED):  # the body waits for a call; decorators and defaults do not
            queue += [*getattr(node, "decorator_list", []), *node.args.defaults, *filter(None, node.args.kw_defaults)]
        elif isinstance(node, ast.If) and is_main_guard(node.test):
            queue += node.orelse
        else:
            queue += ast.iter_child_nodes(node)


def is_main_guard(test: ast.expr) -> bool:
    return isinstance(test, ast.Compare) and isinstance(test.left, ast.Name) and test.left.id == "__name__"


def effect_faults(source: str, module: str) -> list[str]:
    """What importing `module` would do beside defining things."""
    faults = []
    for node in run_on_import(ast.parse(source)):
        is_attribute = isinstance(node, ast.Attribute) and node.attr in ("environ", "environb")
        if is_attribute or (isinstance(node, ast.Name) and node.id in ("environ", "environb")):
            faults.append(f"{module}, line {getattr(node, 'lineno', '?')}: touches the environment on import")
        elif isinstance(node, ast.Call) and call_name(node) in EFFECTS:
            faults.append(f"{module}, line {node.lineno}: calls {call_name(node)}() on import")
        elif isinstance(node, ast.Global | ast.Delete):
            faults.append(f"{module}, line {node.lineno}: changes names on import")
    return faults


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def all_faults(check) -> list[str]:
    faults = []
    for path in sources(*LAYERS):
        # In an __init__ a relative import starts at the package itself, as it does in a module inside the package.
        name = module_name(path) + (".__init__" if path.name == "__init__.py" else "")
        faults += check(path.read_text(encoding="utf-8"), name)
    return faults


def test_imports_point_down_only_and_ray_and_mlflow_stay_at_their_edges():
    assert all_faults(import_faults) == []


def test_importing_a_module_has_no_effect():
    assert all_faults(effect_faults) == []


def import_graph(files: dict[str, Path]) -> dict[str, set[str]]:
    """Which module of `files` imports which others of them: anywhere in its source, in functions and for type checking too."""
    graph: dict[str, set[str]] = {}
    for module, path in files.items():
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        names = set(imported_modules(ast.parse(path.read_text(encoding="utf-8")), package))
        names |= {name.rpartition(".")[0] for name in names if name not in files}
        graph[module] = (names & files.keys()) - {module}
    return graph


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The groups of nodes that can reach each other, each sorted; none in a graph without a circle."""

    def reach(start: str) -> set[str]:
        seen: set[str] = set()
        queue = [start]
        while queue:
            following = graph.get(queue.pop(), set()) - seen
            seen |= following
            queue += following
        return seen

    reached = {node: reach(node) for node in graph}
    groups = {tuple(sorted(other for other in reached[node] if node in reached.get(other, ()))) for node in graph}
    return [list(group) for group in sorted(groups) if group]


def room(module: str) -> str:
    """`pipelines.cache.plan` -> `pipelines.cache`; a file that stands beside the rooms is one of its own."""
    return ".".join(module.split(".")[:2])


def test_no_module_and_no_room_imports_itself_by_a_detour():
    graph = import_graph({module_name(path): path for path in sources(*LAYERS)})
    assert circles(graph) == []
    # A package's own __init__ re-exports what its modules hold: as a room it is its modules.
    rooms: dict[str, set[str]] = {}
    for module, imported in graph.items():
        rooms.setdefault(room(module), set()).update({room(name) for name in imported} - {room(module)})
    rooms.pop("vos", None)
    assert circles(rooms) == []


def test_a_circle_is_found_also_where_an_import_waits_for_a_call_or_for_type_checking(tmp_path: Path):
    sources_of = {
        "a": "import b",
        "b": "def f():\n    from c import x",
        "c": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import a",
        "d": "import a",
    }
    files = {}
    for name, source in sources_of.items():
        files[name] = tmp_path / f"{name}.py"
        files[name].write_text(source)
    assert circles(import_graph(files)) == [["a", "b", "c"]]


JOBS = [path for path in sources("jobs") if path.name != "__init__.py"]


@pytest.mark.parametrize("path", JOBS, ids=label)
def test_a_job_is_a_short_entry_point_with_a_main_and_example_lines(path: Path):
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    assert len(source.splitlines()) in JOB_LINES
    assert "main" in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert any(isinstance(node, ast.If) and is_main_guard(node.test) for node in tree.body), "python -m must start it"
    assert not any(isinstance(node, ast.While | ast.For | ast.AsyncFor) for node in ast.walk(tree)), "no loop over data"
    docstring = ast.get_docstring(tree) or ""
    assert docstring.count(f"python -m jobs.{path.stem}") >= 2, "--help shows two example lines"


def test_the_configuration_loads_without_the_heavy_libraries():
    code = (
        "import sys, vos.config, vos.config.command_line;"
        "print(*sorted({'torch', 'ray', 'mlflow', 'cv2', 'pyarrow', 'pandas', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_no_file_is_a_drawer_for_leftovers():
    assert [label(p) for p in sources(*LAYERS) if p.stem in ("utils", "util", "helpers", "misc", "common")] == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("vos.distillation.supervised", "import ray"),
        ("vos.distillation.supervised", "def f():\n    from mlflow import log_metric"),
        ("vos.models.memory", "from pipelines.cache.schema import X"),
        ("vos.distillation.supervised", "import importlib\nimportlib.import_module('pipelines.cache.plan')"),
        ("pipelines.cache.plan", "import jobs.cache"),
        ("pipelines.cache.plan", "from mlflow.tracking import MlflowClient"),
        ("pipelines.tracking_two", "import mlflow"),
        ("pipelines.cache.plan", "from tests.conftest import ROOT"),
        ("pipelines.inner.plan", "from ...jobs import cache"),
        ("jobs.cache", "from vos import losses"),
        ("jobs.cache", "import vos.data.datasets"),
        ("pipelines.training.loop", "def f():\n    from pipelines.studies import demo"),
        ("pipelines.studies_two", "import pipelines.studies.demo"),
    ],
)
def test_a_forbidden_import_is_found(module: str, source: str):
    assert import_faults(source, module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("pipelines.studies.demo", "from pipelines.studies.davis import page"),
        ("jobs.demo", "from pipelines.studies.demo import run_demo"),
        ("jobs.cache", "from vos.config import CacheConfig\nfrom pipelines import teacher_cache"),
        ("pipelines.tracking.store", "import mlflow\nimport ray\nfrom .. import schema"),
        ("vos.models.memory", "import torch\nfrom ..errors import InputError\nfrom .encoders import Encoder"),
    ],
)
def test_an_allowed_import_is_let_through(module: str, source: str):
    assert import_faults(source, module) == []


@pytest.mark.parametrize(
    "source",
    [
        "import os\nROOT = os.environ.get('X')",
        "from os import environ\nROOT = environ['X']",
        "import torch\ntorch.manual_seed(0)",
        "import os\nif True:\n    os.makedirs('runs')",
        "import os\ndef f(root=os.getenv('X')): ...",
        "class A:\n    import logging\n    logging.basicConfig()",
        "import torch\nDEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'",
    ],
)
def test_an_effect_on_import_is_found(source: str):
    assert effect_faults(source, "vos.example")


def test_what_waits_for_a_call_is_no_effect_on_import():
    functions = "import os\ndef f():\n    os.makedirs(os.environ['X'])\ng = lambda: os.getcwd()\n"
    source = functions + "if __name__ == '__main__':\n    print(f())"
    assert effect_faults(source, "vos.example") == []


JSON_APART = {
    "vos/files/json_files.py": "the reader",
    "vos/inference/example_segment.py": "a program that users take away, without this package",
    "pipelines/runtime/actors.py": "rows of our own, between processes of one session",
}


def test_json_from_outside_is_read_in_one_place() -> None:
    """`json.loads(dumps(...))`, our own values as JSON reads them back, is no reading."""
    faults = []
    for path in sources("jobs", "pipelines", "vos", "cluster"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and ast.unparse(node.func) in ("json.load", "json.loads")):
                continue
            own = isinstance(node.args[0], ast.Call) and call_name(node.args[0]) == "dumps"
            if not own and label(path) not in JSON_APART:
                faults.append(f"{label(path)}, line {node.lineno}")
    assert faults == [], "use vos.files.json_files"


HOOKS = {
    "_register_sigint_handler": "Ray Train's",
    "on_start": "Ray Train's",
    "backend_cls": "Ray Train's",
    "writelines": "of every stream",
}
"""Names that a library calls."""


def test_every_name_is_used_outside_the_tests() -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in sources(*LAYERS, "cluster")}
    words = Counter(word for text in texts.values() for word in re.findall(r"\w+", text))
    unused = []
    for path, text in texts.items():
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("__") or node.name in HOOKS:
                continue
            if words[node.name] == 1:
                unused.append(f"{label(path)}, line {node.lineno}: {node.name}")
    assert unused == []


def test_nothing_counts_in_a_global() -> None:
    found = [
        f"{label(path)}, line {node.lineno}"
        for path in sources(*LAYERS, "cluster")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Global)
    ]
    assert found == []


UNPICKLES = {
    *("pickle.load", "pickle.loads", "torch.load", "joblib.load"),
    *(f"dist.{name}_object" for name in ("all_gather", "gather")),
    *(f"dist.{name}_object_list" for name in ("broadcast", "scatter", "recv")),
}


def test_nothing_is_unpickled() -> None:
    """numpy's `load` does so only where it is told to."""
    faults = []
    for path in sources("jobs", "pipelines", "vos", "cluster"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                allowed = any(keyword.arg == "allow_pickle" for keyword in node.keywords)
                if allowed or ast.unparse(node.func) in UNPICKLES:
                    faults.append(f"{label(path)}, line {node.lineno}: {ast.unparse(node.func)}")
    assert faults == []
