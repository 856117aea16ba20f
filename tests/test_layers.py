"""Who may import whom, as a table; and that the table can catch something."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[1] / "src"
ANY = {"segtune.errors"}
ALLOWED = {  # module (or folder) -> the modules of segtune that it may import
    "segtune.errors": set(),
    "segtune": set(),
    "segtune.losses": set(),
    "segtune.regularizers": set(),
    "segtune.distances": set(),
    "segtune.volumes": set(),
    "segtune.metrics": {"segtune.distances", "segtune.volumes"},
    "segtune.blocks": set(),
    "segtune.nets": {"segtune.blocks"},
    "segtune.optimizers": set(),
    "segtune.report.figures": set(),
    "segtune.report.stats": set(),
    "segtune.report.clinical": {"segtune.results", "segtune.volumes"},
    "segtune.report.records": {"segtune.results", "segtune.report.stats", "segtune.report.clinical"},
    "segtune.report.claims": {"segtune.report.stats", "segtune.report.records"},
    "segtune.report.tables": {
        *("segtune.report.stats", "segtune.report.clinical", "segtune.report.records", "segtune.report.claims"),
    },
    "segtune.report.page": {"segtune.results", "segtune.report"},
    "segtune.report": set(),
    "segtune.data": {"segtune.data"},
    "segtune.module": {"segtune.losses", "segtune.metrics", "segtune.data"},
    "segtune.results": set(),
    "segtune.sources": {"segtune.results"},
    "segtune.rules": set(),
    "segtune.app": {"segtune.results", "segtune.rules"},
    "segtune.sweep": {"segtune.app", "segtune.results", "segtune.rules", "segtune.sources"},
    "segtune.workers": {"segtune.app", "segtune.results", "segtune.sources", "segtune.sweep", "segtune.train"},
    "segtune.status": {"segtune.app", "segtune.results", "segtune.rules", "segtune.sweep", "segtune.workers"},
    "segtune.calibrate": {
        *("segtune.app", "segtune.build", "segtune.results", "segtune.nets", "segtune.data", "segtune.module"),
        *("segtune.report.figures", "segtune.rules", "segtune.workers"),
    },
    "segtune.check": {"segtune.app", "segtune.build", "segtune.results", "segtune.rules", "segtune.data"},
    "segtune.predict": {"segtune.app", "segtune.results", "segtune.trained", "segtune.volumes", "segtune.data"},
    "segtune.build": {"segtune.nets", "segtune.data", "segtune.module"},
    "segtune.trained": {"segtune.networks", "segtune.results", "segtune.data"},
    "segtune.networks": {"segtune.nets"},
    "segtune.evaluate": {
        *("segtune.app", "segtune.build", "segtune.results", "segtune.trained", "segtune.train", "segtune.metrics"),
        *("segtune.volumes", "segtune.losses", "segtune.data", "segtune.rules", "segtune.workers"),
    },
    "segtune.card": {"segtune.results", "segtune.report.tables"},
    "segtune.export": {"segtune.app", "segtune.card", "segtune.results", "segtune.rules", "segtune.trained"},
    "segtune.train": {
        "segtune.module",
        "segtune.app",
        "segtune.build",
        "segtune.calibrate",
        "segtune.results",
        "segtune.metrics",
        "segtune.nets",
        "segtune.regularizers",
        "segtune.sources",
        "segtune.data",
        "segtune.report.figures",
    },
    "segtune.__main__": {"segtune.app", "segtune.results", "segtune.sweep", "segtune.workers"},
    "segtune.report.__main__": {"segtune.app", "segtune.results", "segtune.report"},
    "hydra_plugins.grid_sweeper": {"segtune.rules", "segtune.sweep", "segtune.workers"},
    "hydra_plugins.launchers": {"segtune.workers"},
}
NO_HYDRA = (
    "segtune.losses",
    "segtune.regularizers",
    "segtune.metrics",
    "segtune.distances",
    "segtune.volumes",
    "segtune.blocks",
    "segtune.nets",
    "segtune.networks",
    "segtune.trained",
    "segtune.optimizers",
    "segtune.data",
    "segtune.report.figures",
    "segtune.report.stats",
    "segtune.report.claims",
    "segtune.report.clinical",
)


def imports(source):
    """Every module that a source imports, at its head or inside a function; `from a import b` counts as a and a.b."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide who imports whom"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def breaches(module, source):
    rule = next(ALLOWED[name] for name in sorted(ALLOWED, key=len, reverse=True) if within(module, name))
    for found in imports(source):
        if found.startswith("segtune.") and not any(within(found, name) for name in rule | ANY):
            yield f"{module} imports {found}"
        if found.startswith(("hydra", "omegaconf")) and any(within(module, name) for name in NO_HYDRA):
            yield f"{module} imports {found}"


def within(module, name):
    return module == name or module.startswith(f"{name}.")


FILES = {".".join(p.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__"): p for p in SRC.rglob("*.py")}


@pytest.mark.parametrize("module", FILES)
def test_a_module_imports_only_what_it_may(module):
    assert list(breaches(module, FILES[module].read_text())) == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("segtune.losses", "from segtune import results"),
        ("segtune.data.rvsc", "import segtune.app"),
        ("segtune.nets", "from omegaconf import DictConfig"),
        ("segtune.report.page", "def f():\n    from segtune.train import train"),
        ("segtune.sweep", "from segtune import train"),
    ],
)
def test_a_breach_is_caught(module, line):
    assert len(list(breaches(module, line))) == 1


@pytest.mark.parametrize(
    "module",
    [
        "results",
        "distances",
        "volumes",
        "sweep",
        "app",
        "rules",
        "card",
        "report",
        "report.figures",
        "report.page",
        "report.__main__",
        "__main__",
        "status",
        "workers",
        "predict",
        "data.images",
    ],
)
def test_what_reads_results_or_plans_a_sweep_needs_no_torch(module):
    subprocess.run([sys.executable, "-c", f"import without_torch, segtune.{module}"], check=True, cwd=Path(__file__).parent)


def test_a_torch_import_would_be_caught():
    code = "import without_torch, segtune.losses"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=Path(__file__).parent).returncode != 0
