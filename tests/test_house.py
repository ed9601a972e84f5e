"""The house (DESIGN section 3): which room may import which, and what no file may do.

Sources are parsed, never run. `violations` takes them as a mapping from path to text, so that small
synthetic houses show below that each rule catches what it is for.
"""

import ast
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = "jaxmap"
ROOT = Path(__file__).resolve().parents[1]

# From the top down: a room imports only from rooms above it.
ROOMS = (
    *("types", "trees", "data", "model", "curvature", "optimize", "statistics", "infer"),
    *("assess", "report", "interop", "sklearn", "cli", "__init__"),
)

# What methods that only present may import when they are called, wherever they stand.
PRESENTERS = frozenset({"to_arviz", "figure", "figures", "__str__", "save"})
PRESENTING_ROOMS = frozenset({"report", "interop"})

# Foreign library -> the places that may import it: (room, beginning of the file name, what of the library).
RESERVED = {
    "numpyro": (
        ("model", "", "numpyro.distributions"),
        ("infer", "nuts", "numpyro"),
        ("interop", "", "numpyro"),
    ),
    "matplotlib": (("report", "", "matplotlib"),),
    "jinja2": (("report", "page", "jinja2"),),
    "arviz": (("interop", "", "arviz"),),
    "blackjax": (("infer", "mclmc", "blackjax"),),
    "sklearn": (("sklearn", "", "sklearn"), ("data", "bundled", "sklearn")),
}
PICKLERS = frozenset({"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "shelve"})
FORBIDDEN_CALLS = frozenset({"eval", "exec", "__import__"})
NAMES_OF_DRAWERS = frozenset({"util", "utils", "helper", "helpers", "common"})


@dataclass(frozen=True)
class Import:
    """One imported thing: its absolute dotted name, and the functions around the import, outermost first."""

    target: str
    line: int
    functions: tuple[str, ...]


class Reader(ast.NodeVisitor):
    """Collect the imports of one file and the calls that no file may make."""

    def __init__(self, package: tuple[str, ...]):
        self.package = package
        self.functions: tuple[str, ...] = ()
        self.imports: list[Import] = []
        self.faults: list[tuple[int, str]] = []

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        outside, self.functions = self.functions, (*self.functions, node.name)
        self.generic_visit(node)
        self.functions = outside

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.add(alias.name, node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        # level 1 is the file's own package, each further level the one around it
        base = self.package[: len(self.package) + 1 - node.level] if node.level else ()
        module = ".".join([*base, *([node.module] if node.module else [])])
        for alias in node.names:
            self.add(f"{module}.{alias.name}", node)

    def visit_Call(self, node: ast.Call) -> None:
        name = called_name(node.func)
        if name in FORBIDDEN_CALLS:
            self.faults.append((node.lineno, f"calls {name}"))
        if name == "import_module":
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str) and first.value[:1] != ".":
                self.add(first.value, node)
            else:
                self.faults.append((node.lineno, "imports by a name that cannot be read"))
        if any(keyword.arg == "allow_pickle" and not is_false(keyword.value) for keyword in node.keywords):
            self.faults.append((node.lineno, "allows pickle"))
        self.generic_visit(node)

    def add(self, target: str, node: ast.stmt | ast.expr) -> None:
        self.imports.append(Import(target, node.lineno, self.functions))


def called_name(function: ast.expr) -> str:
    """Name a called builtin or `importlib.import_module`; a method such as `module.eval` is neither."""
    if isinstance(function, ast.Name):
        return function.id
    if not (isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name)):
        return ""
    known = function.value.id == "builtins" or function.attr == "import_module"
    return function.attr if known else ""


def is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


def read(path: str, source: str) -> Reader:
    reader = Reader(package=tuple(Path(path).parent.parts))
    reader.visit(ast.parse(source))
    return reader


def place(path: str) -> tuple[str, str]:
    """Split `jaxmap/room/file.py` into room and file; a room that is a file has no files."""
    parts = Path(path).with_suffix("").parts[1:]
    return parts[0], parts[1] if len(parts) > 1 else ""


def file_order(sources: Mapping[str, str], room: str) -> list[str]:
    """List the files of a room in the order in which its `__init__.py` first imports from them."""
    path = f"{PACKAGE}/{room}/__init__.py"
    own = [item.target.split(".") for item in read(path, sources.get(path, "")).imports]
    return list(dict.fromkeys(parts[2] for parts in own if parts[:2] == [PACKAGE, room] and len(parts) > 2))


def violations(sources: Mapping[str, str]) -> list[str]:
    """List what breaks the rules of the house, as `path:line what`."""
    orders = {room: file_order(sources, room) for room, file in map(place, sources) if file}
    return [fault for path, source in sources.items() for fault in faults_of(path, source, orders)]


def faults_of(path: str, source: str, orders: Mapping[str, list[str]]) -> Iterator[str]:
    room, file = place(path)
    if room not in ROOMS:
        yield f"{path}:1 lies in no room of the house"
        return
    for part in Path(path).with_suffix("").parts:
        if part.strip("_") in NAMES_OF_DRAWERS:
            yield f"{path}:1 is named {part}, which says nothing"
    if file and file not in ("__init__", "__main__") and file not in orders[room]:
        yield f"{path}:1 is not named in {PACKAGE}/{room}/__init__.py"
    reader = read(path, source)
    for line, fault in reader.faults:
        yield f"{path}:{line} {fault}"
    for item in reader.imports:
        fault = own_fault(item, room, file, orders) or foreign_fault(item, room, file)
        if fault:
            yield f"{path}:{item.line} {fault}"


def own_fault(item: Import, room: str, file: str, orders: Mapping[str, list[str]]) -> str:
    """Say what is wrong with an import of ours, or nothing."""
    parts = item.target.split(".")
    if parts[0] != PACKAGE:
        return ""
    target = parts[1] if len(parts) > 1 and parts[1] in ROOMS else "__init__"
    if target != room:
        if ROOMS.index(target) < ROOMS.index(room):
            return ""
        if target in PRESENTING_ROOMS and PRESENTERS & set(item.functions):
            return ""
        return f"imports {item.target}, but {target} is not above {room}"
    if file in ("", "__init__"):
        return ""
    order = orders[room]
    named = parts[2] if len(parts) > 2 else ""
    if named not in order:
        return f"imports {item.target}, which is no file named in {PACKAGE}/{room}/__init__.py"
    if file in order and order.index(named) >= order.index(file):
        return f"imports {item.target}, but {named} is not before {file} in {PACKAGE}/{room}/__init__.py"
    return ""


def foreign_fault(item: Import, room: str, file: str) -> str:
    """Say what is wrong with an import of a foreign library, or nothing."""
    library = item.target.split(".")[0]
    if library in PICKLERS:
        return f"imports {library}"
    if library not in RESERVED or any(
        room == where and file.startswith(beginning) and f"{item.target}.".startswith(f"{what}.")
        for where, beginning, what in RESERVED[library]
    ):
        return ""
    return f"imports {item.target}, which has no place in {room}{'/' if file else ''}{file}"


def house() -> dict[str, str]:
    paths = sorted((ROOT / PACKAGE).rglob("*.py"))
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def test_the_house_is_in_order():
    sources = house()
    assert len(sources) > 1
    found = violations(sources)
    assert not found, "\n" + "\n".join(found)


def test_importing_jaxmap_leaves_slow_libraries_alone():
    """Matplotlib and ArviZ take a second each: they are imported by what presents, when it is called."""
    program = (
        "import sys, jaxmap; print(*sorted({'arviz', 'jinja2', 'matplotlib', 'pandas', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def small_house(**files: str) -> dict[str, str]:
    """Make a sound house of a few files, and put the given ones in it (`room__file` for room/file.py)."""
    sound = {
        "jaxmap/__init__.py": "from jaxmap.infer import fit",
        "jaxmap/types.py": "import enum",
        "jaxmap/model/__init__.py": "from jaxmap.model.space import Space\nfrom .prior import Prior",
        "jaxmap/model/space.py": "from numpyro import distributions as dist\nfrom jaxmap.types import Status",
        "jaxmap/model/prior.py": "import numpyro.distributions as dist\nfrom .space import Space",
        "jaxmap/infer/__init__.py": "from jaxmap.infer.point import MAP\nfrom jaxmap.infer.nuts import NUTS",
        "jaxmap/infer/point.py": "from jaxmap.model import Prior",
        "jaxmap/infer/nuts.py": "import numpyro.infer\nfrom jaxmap.infer import point",
    }
    placed = {f"jaxmap/{name.replace('__', '/', 1)}.py": textwrap.dedent(text) for name, text in files.items()}
    return {**sound, **placed}


SOUND = {
    "the small house itself": {},
    "a room imports a room above it": {"infer__point": "from jaxmap.model.prior import Prior"},
    "relative, two levels up": {"infer__point": "from ..types import Status\nfrom ..model import Prior"},
    "a file before it": {"infer__nuts": "from .point import MAP\nimport jaxmap.infer.point"},
    "figures imports the report when called": {
        "infer__point": """
            class Point:
                def figures(self):
                    from jaxmap.report import bands
                def to_arviz(self):
                    def inner():
                        from jaxmap import interop
            """
    },
    "the method eval of a network": {"model__space": "def still(module):\n    return module.eval()"},
    "names that only begin alike": {"types": "import pickleshare, numpyroish\nuseful = common = 1"},
    "pickle refused": {"types": "import numpy as np\nload = lambda p: np.load(p, allow_pickle=False)"},
    "matplotlib in the report": {
        "report____init__": "from jaxmap.report.figures import bands",
        "report__figures": "import matplotlib.pyplot as plt",
    },
    "the template library for the page": {
        "report____init__": "from jaxmap.report.page import page",
        "report__page": "from jinja2 import Environment",
    },
    "numpyro and arviz in interop": {
        "interop____init__": "from .bridge import from_numpyro",
        "interop__bridge": "import numpyro\nimport arviz\nfrom numpyro.infer.util import log_density",
    },
    "a second file of nuts": {
        "infer____init__": "from . import point\nfrom . import nuts_start, nuts",
        "infer__nuts_start": "from numpyro.infer import NUTS",
        "infer__nuts": "from . import nuts_start",
    },
}

BROKEN = {
    "a room below": ({"model__prior": "from jaxmap.infer import fit"}, "infer is not above model"),
    "a room below, relative": ({"model__prior": "from ..infer.point import MAP"}, "infer is not above model"),
    "a room below, by import": ({"types": "import jaxmap.model.prior as p"}, "model is not above types"),
    "a room below, from the package": ({"types": "from . import model"}, "model is not above types"),
    "the public page": ({"infer__point": "from jaxmap import MAP"}, "__init__ is not above infer"),
    "the public page, whole": ({"infer__point": "import jaxmap"}, "__init__ is not above infer"),
    "a star": ({"model__prior": "from jaxmap.infer import *"}, "infer is not above model"),
    "in a function": (
        {"model__prior": "def f():\n    from jaxmap.infer import fit"},
        "prior.py:2 imports jaxmap.infer",
    ),
    "in a condition": (
        {"types": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import jaxmap.model"},
        "model is not above types",
    ),
    "by import_module": (
        {"types": "import importlib\nm = importlib.import_module('jaxmap.model')"},
        "model is not above types",
    ),
    "by a computed name": (
        {"types": "from importlib import import_module\nm = import_module('jax' + 'map')"},
        "cannot be read",
    ),
    "by __import__": ({"types": "m = __import__('jaxmap.model')"}, "calls __import__"),
    "the report, when called by another": (
        {"infer__point": "def fit():\n    from jaxmap.report import table"},
        "report is not above infer",
    ),
    "the report, at the top": ({"infer__point": "import jaxmap.report"}, "report is not above infer"),
    "a presenter takes more than the report": (
        {"model__prior": "def figures():\n    from jaxmap.infer import fit"},
        "infer is not above model",
    ),
    "a later file": ({"infer__point": "from jaxmap.infer.nuts import NUTS"}, "nuts is not before point"),
    "a later file, relative": ({"infer__point": "from .nuts import NUTS"}, "nuts is not before point"),
    "a later file, from the room": ({"infer__point": "from . import nuts"}, "nuts is not before point"),
    "itself": ({"infer__point": "from .point import MAP"}, "point is not before point"),
    "its own room": ({"infer__nuts": "from jaxmap.infer import MAP"}, "no file named in jaxmap/infer"),
    "a file the room does not name": ({"infer__stray": ""}, "not named in jaxmap/infer/__init__.py"),
    "a room without a page": ({"assess__score": ""}, "not named in jaxmap/assess/__init__.py"),
    "no room": ({"extras__thing": ""}, "lies in no room"),
    "a drawer": (
        {"model____init__": "from . import space, prior, utils", "model__utils": ""},
        "is named utils",
    ),
    "a private drawer": (
        {"model____init__": "from . import space, prior, _helpers", "model___helpers": ""},
        "is named _helpers",
    ),
    "a drawer for a room": ({"common": ""}, "no room"),
    "numpyro in the types": ({"types": "import numpyro.distributions as dist"}, "no place in types"),
    "numpyro in a method": (
        {"infer__point": "from numpyro.distributions import Normal"},
        "no place in infer/point",
    ),
    "more than distributions in the model": ({"model__prior": "import numpyro"}, "no place in model/prior"),
    "mcmc in the model": ({"model__prior": "from numpyro.infer import NUTS"}, "no place in model/prior"),
    "numpyro in a function": ({"types": "def f():\n    import numpyro"}, "no place in types"),
    "matplotlib outside": ({"infer__point": "from matplotlib import pyplot"}, "no place in infer/point"),
    "matplotlib in a presenter": (
        {"infer__point": "def figures():\n    import matplotlib"},
        "no place in infer/point",
    ),
    "jinja2 outside": ({"infer__point": "def save():\n    import jinja2"}, "no place in infer/point"),
    "arviz outside": ({"infer__nuts": "def to_arviz():\n    import arviz"}, "no place in infer/nuts"),
    "scikit-learn outside": ({"model__prior": "from sklearn.base import clone"}, "no place in model/prior"),
    "the estimators, from above": (
        {"sklearn": "import sklearn", "infer__point": "import jaxmap.sklearn"},
        "sklearn is not above infer",
    ),
    "pickle": ({"types": "import pickle"}, "imports pickle"),
    "pickle's cousin": ({"types": "from cloudpickle import dumps"}, "imports cloudpickle"),
    "pickle allowed": ({"types": "import numpy as np\nnp.load('a', allow_pickle=True)"}, "allows pickle"),
    "eval": ({"types": "three = eval('1 + 2')"}, "calls eval"),
    "exec": ({"types": "import builtins\nbuiltins.exec('pass')"}, "calls exec"),
}


@pytest.mark.parametrize("files", SOUND.values(), ids=SOUND)
def test_sound_houses_pass(files):
    assert violations(small_house(**files)) == []


@pytest.mark.parametrize(("files", "expected"), BROKEN.values(), ids=BROKEN)
def test_each_violation_is_caught(files, expected):
    found = violations(small_house(**files))
    assert len(found) == 1
    assert expected in found[0]
