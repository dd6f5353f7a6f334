"""Who may import whom, what the commands load, and how long a file may be.

The rules are those of the house: arrows point one way (`simulations → server, client → common`), Flower and Ray are
known to few files, and a command answers `--help` before the heavy libraries are needed.
"""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGES = ("common", "client", "server", "simulations")

FORBIDDEN = {
    "common": {"client", "server", "simulations", "flwr", "ray", "socket", "socketserver", "grpc"}
    | {"argparse", "click", "typer", "rich"},
    "client": {"server", "simulations"},
    "server": {"client", "simulations"},
}
"""Top-level modules that no file of a package imports."""

ONLY_IN = {
    "flwr": {"client/flower/", "server/flower/", "simulations/engine/", "simulations/benchmarks/engine"}
    | {"simulations/benchmarks/naive_apps.py"},
    "ray": {"simulations/engine/", "simulations/comparison/on_ray.py"},
    "tensorboard": {"server/trackers/tensorboard.py"},
    "mlflow": {"server/trackers/mlflow.py"},
    "wandb": {"server/trackers/wandb.py"},
    "huggingface_hub": {"common/model/hub.py"},
    "dp_accounting": {"client/privacy/accounting.py"},
    "pydicom": {"common/data/images/"},
    "h5py": {"common/data/images/containers.py"},
    "pillow_heif": {"common/data/images/heif.py"},
    "imagehash": {"common/data/images/duplicates.py"},
    "cryptography": {"client/privacy/noise.py", "client/doctor/network.py", "client/flower/probe.py"}
    | {"common/doctor/kit.py", "common/export/signature.py", "server/clinics/certificates.py"},
    "fastapi": {"common/page/"},
    "starlette": {"common/page/", "server/flower/"},
    "uvicorn": {"common/page/", "common/audit/library_logs.py", "server/flower/superlink.py"},
    "weasyprint": {"server/report/pdf.py"},
    "onnx": {"common/export/"},
    "onnxruntime": {"common/export/"},
    "onnxscript": {"common/export/"},
}
"""Modules that are known to these files and folders alone."""

LAYERS = {
    "client": (
        "cli",
        "page",
        "status",
        "logs",
        "doctor",
        "daemon",
        "worker",
        "flower",
        "training",
        "approval",
        "models",
        "rpc",
        "data",
        "config",
        "ledger",
        "privacy",
    ),
    "server": (
        "cli",
        "page",
        "status",
        "daemon",
        "provisioning",
        "doctor",
        "edge",
        "flower",
        "clinics",
        "trackers",
        "phone",
        "federation",
        "results",
        "aggregation",
        "report",
        "runs",
        "config",
    ),
    "common": (
        "flower_pins",
        "terminal",
        "page",
        "export",
        "moments",
        "metrics",
        "audit",
        "study",
        "doctor",
        "yaml_file",
        "algorithms",
        "optimizers",
        "partition",
        "aggregation",
        "model",
        "seeds",
        "data",
        "registry",
        "messages",
        "compression",
        "tensors",
        "progress",
        "process",
        "locks",
        "hash_chain",
        "files",
        "errors",
    ),
    "simulations": (
        "cli",
        "api",
        "benchmarks",
        "audit",
        "ladder",
        "comparison",
        "run",
        "baselines",
        "personal_models",
        "engine",
        "longer",
        "shown",
        "partition",
        "predictions",
        "starts",
        "fit_neck",
        "phantom",
        "studies",
    ),
}
"""The folders and files of each package from the top down: each imports only what stands below it, or itself."""

MOST = 12
MOST_FILES = {
    "client/worker": 13,
    "simulations/benchmarks": 30,
    "common/metrics": 18,
    "common/study": 15,
    "server/federation": 14,
    "server/report": 20,
    "server/cli": 16,
    "common/data/images": 16,
    "common/data/readers": 20,
    "common/model/backbones": 20,
    "common/data/vocabulary": 20,
}
"""Files of code in a folder, at most; layouts of tables and their words are many."""

HEAVY = {
    "pydicom",
    "h5py",
    "imagehash",
    "torch",
    "torchvision",
    "timm",
    "sklearn",
    "scipy",
    "matplotlib",
    "ray",
    "flwr",
    "opacus",
    "dp_accounting",
    "onnx",
    "onnxruntime",
    "tensorboard",
    "mlflow",
    "wandb",
    "huggingface_hub",
    "fastapi",
    "starlette",
    "uvicorn",
}
"""What must not be loaded by a command that only prints its help."""

LONGEST = 450
"""A file has fewer lines than this."""

LEXICON = "tests/common/data/vocabulary/lexicon/test_lexicon.py"
MIRRORED_BY = {
    # Words without code: one test goes through every entry of all these files.
    "common/data/vocabulary/lexicon/keratinocytic.py": LEXICON,
    "common/data/vocabulary/lexicon/melanocytic.py": LEXICON,
    "common/data/vocabulary/lexicon/melanoma.py": LEXICON,
    "common/data/vocabulary/lexicon/other.py": LEXICON,
    "common/data/vocabulary/lexicon/qualifiers.py": LEXICON,
    # Types without behaviour: what is made of them is tested where it is made.
    "common/aggregation/rule.py": "tests/common/aggregation/test_median.py",
    "common/data/images/problems.py": "tests/common/data/images/test_colour.py",
    "common/data/vocabulary/terms.py": "tests/common/data/vocabulary/test_sites.py",
    "common/optimizers/optimizer.py": "tests/common/optimizers/test_fedavgm.py",
    "common/progress.py": "tests/common/data/test_inventory.py",
    "server/runs/outcome.py": "tests/server/runs/test_folder.py",
    # Imports alone: a worker is looked at that was begun with them.
    "simulations/engine/preloaded.py": "tests/simulations/engine/test_fork_server.py",
    # A few lines by which Flower finds an app; it calls them in whole processes alone.
    "client/flower/deployed.py": "tests/e2e/test_deployment.py",
    "server/flower/app.py": "tests/server/flower/test_deployed.py",
}
"""Files without a test file of their own name, and the one that tests them."""


@cache
def sources() -> dict[str, str]:
    """Text of every Python file of the four packages, by its path in the repository."""
    files = [path for package in PACKAGES for path in sorted((REPOSITORY / package).rglob("*.py"))]
    return {path.relative_to(REPOSITORY).as_posix(): path.read_text(encoding="utf-8") for path in files}


@cache
def imports(text: str, path: str) -> tuple[tuple[int, str], ...]:
    """Line and full name of every module that a file imports, wherever in the file, and however it is written."""
    return tuple(_imports(text, path))


def _imports(text: str, path: str) -> Iterator[tuple[int, str]]:
    package = path.split("/")[:-1]
    for node in ast.walk(ast.parse(text, filename=path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from . import x` in a package's own folder names x, not the folder.
            yield from ((node.lineno, f"{module}.{alias.name}" if module else alias.name) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if function in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.lineno, node.args[0].value


def top(module: str) -> str:
    """The package of melfed, or the library, that a module is of."""
    return module.removeprefix("melfed.").partition(".")[0]


def loaded_by(module: str) -> set[str]:
    """Top-level names of all modules that a new interpreter has loaded after importing one."""
    code = f"import json, sys; import {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


def test_imports_are_found_in_all_their_forms() -> None:
    text = """
import one, two.part
from three import four
from . import five
from ..six import seven
from .. import eight
def late():
    import nine
    if True:
        importlib.import_module("ten.part")
        __import__("eleven")
"""
    found = {module for _, module in imports(text, "server/inner/file.py")}
    assert found == {
        "one",
        "two.part",
        "three.four",
        "server.inner.five",
        "server.six.seven",
        "server.eight",
        "nine",
        "ten.part",
        "eleven",
    }


def test_all_packages_are_looked_at() -> None:
    assert {top(path.replace("/", ".")) for path in sources()} == set(PACKAGES)


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_arrows_point_one_way(package: str) -> None:
    wrong = [
        f"{path}:{line} imports {module}"
        for path, text in sources().items()
        if path.startswith(f"{package}/")
        for line, module in imports(text, path)
        if top(module) in FORBIDDEN[package]
        and not (top(module) in {"rich", "typer"} and path.startswith("common/terminal/"))
    ]
    assert not wrong, "\n".join(wrong)


def layer_of(path: str) -> str:
    """The folder or file of a package that a path of the repository, or a module's, is in: `client/worker`."""
    package, _, rest = path.partition("/")
    return f"{package}/{rest.partition('/')[0].removesuffix('.py')}"


@pytest.mark.parametrize("package", PACKAGES)
def test_arrows_between_folders_point_down(package: str) -> None:
    """No folder imports one that stands above it in `LAYERS`."""
    order = {f"{package}/{name}": place for place, name in enumerate(LAYERS[package])}
    wrong = []
    for path, text in sources().items():
        if not path.startswith(f"{package}/") or path == f"{package}/__init__.py":
            continue
        for line, module in imports(text, path):
            if module.startswith(f"melfed.{package}."):
                upper = order[layer_of(module.removeprefix("melfed.").replace(".", "/"))]
                if upper < order[layer_of(path)]:
                    wrong.append(f"{path}:{line} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_every_folder_has_its_place_and_few_files() -> None:
    found: dict[str, set[str]] = {}
    for path in sources():
        found.setdefault(path.partition("/")[0], set()).add(layer_of(path).partition("/")[2])
    assert {package: names - {"__init__"} for package, names in found.items()} == {k: set(v) for k, v in LAYERS.items()}
    folders = {path.rpartition("/")[0] for path in sources()}
    sizes = {f: sum(p.rpartition("/")[0] == f and not p.endswith("__init__.py") for p in sources()) for f in folders}
    assert not {folder: size for folder, size in sizes.items() if size > MOST_FILES.get(folder, MOST)}


@pytest.mark.parametrize("library", sorted(ONLY_IN))
def test_libraries_that_change_or_count_are_known_to_few_files(library: str) -> None:
    knowing = {
        path for path, text in sources().items() if any(top(module) == library for _, module in imports(text, path))
    }
    assert not {path for path in knowing if not path.startswith(tuple(ONLY_IN[library]))}


@pytest.mark.parametrize(
    "module",
    [
        "melfed.client.flower.client_app",
        "melfed.client.rpc.remote",
        "melfed.client.flower.superexec",
        "melfed.client.flower.supernode",
    ],
)
def test_what_carries_messages_loads_neither_torch_nor_opacus(module: str) -> None:
    assert not loaded_by(module) & {"torch", "opacus"}


@pytest.mark.parametrize(
    "module",
    [
        "melfed.client.cli.main",
        "melfed.server.cli.main",
        "melfed.simulations.cli.main",
        "melfed.simulations.api.simulate",
    ],
)
def test_commands_and_what_notebooks_import_load_nothing_heavy(module: str) -> None:
    assert not loaded_by(module) & HEAVY


def mirror(path: str) -> str:
    """The test file of a file of code: the same folder and name below `tests`."""
    folder, _, name = path.rpartition("/")
    return f"tests/{folder}/test_{name}"


def test_every_file_is_tested_where_a_reader_looks_for_it() -> None:
    written = {path for path in sources() if not path.endswith(("__init__.py", "_pb2.py", "_pb2_grpc.py"))}
    without = {path for path in written if not (REPOSITORY / mirror(path)).is_file()}
    assert without == set(MIRRORED_BY), "a file lacks its mirror, or has one and is listed as if it had none"
    assert not [test for test in MIRRORED_BY.values() if not (REPOSITORY / test).is_file()]


@pytest.mark.parametrize("path", sorted(sources()))
def test_no_file_is_long(path: str) -> None:
    assert len(sources()[path].splitlines()) < LONGEST, f"{path}: one idea a file"
