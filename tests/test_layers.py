"""Who may import whom, as a table; and that the table can catch something."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[1] / "src"
ANY = {"segtune.errors"}
VERBS = ("__main__", "cli", "report.__main__", "calibrate", "check", "evaluate", "export", "predict", "status")
ALLOWED = {  # module (or folder) -> the modules of segtune that it may import
    "segtune": {"segtune.report.frames"},  # segtune.load, which imports it when it is called
    "segtune.errors": set(),
    "segtune.losses": set(),
    "segtune.regularizers": set(),
    "segtune.optimizers": set(),
    "segtune.blocks": set(),
    "segtune.augment": set(),
    "segtune.schedules": set(),
    "segtune.nets": {"segtune.blocks"},
    "segtune.metrics": {"segtune.metrics", "segtune.data.slices"},
    "segtune.plots": {"segtune.plots"},
    "segtune.data": {"segtune.data"},
    "segtune.runs": {"segtune.runs"},
    "segtune.config": {"segtune.config", "segtune.runs"},
    "segtune.training": {
        *("segtune.training", "segtune.data", "segtune.metrics", "segtune.runs", "segtune.plots"),
        *("segtune.losses", "segtune.regularizers", "segtune.nets"),
    },
    "segtune.training.build": {
        *("segtune.training", "segtune.data", "segtune.metrics", "segtune.nets", "segtune.runs", "segtune.config"),
        *("segtune.augment", "segtune.schedules"),
    },
    "segtune.sweeps": {"segtune.sweeps", "segtune.runs", "segtune.config", "segtune.data.readers", "segtune.training.process"},
    "segtune.sweeps.execute": {"segtune.sweeps", "segtune.runs", "segtune.config", "segtune.training"},
    "segtune.inference": {
        *("segtune.inference", "segtune.data", "segtune.metrics", "segtune.runs", "segtune.plots"),
        *("segtune.losses", "segtune.nets", "segtune.training.build", "segtune.training.provenance"),
    },
    "segtune.report": {"segtune.report", "segtune.runs", "segtune.metrics.volumes", "segtune.plots"},
    "segtune.studies": {"segtune.studies", "segtune.report"},
    **{verb: {"segtune"} for verb in map("segtune.{}".format, VERBS)},
    "hydra_plugins": {"segtune"},
}
NO_HYDRA = (
    *("segtune.losses", "segtune.regularizers", "segtune.optimizers", "segtune.blocks", "segtune.nets", "segtune.metrics"),
    *("segtune.augment", "segtune.schedules"),
    *("segtune.data", "segtune.plots", "segtune.runs", "segtune.inference", "segtune.studies"),
    *(f"segtune.report.{path.stem}" for path in (SRC / "segtune" / "report").glob("[a-z]*.py")),  # all but __main__
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
        ("segtune.losses", "from segtune.runs import identity"),
        ("segtune.data.rvsc", "import segtune.config.entry"),
        ("segtune.nets", "from omegaconf import DictConfig"),
        ("segtune.report.page", "def f():\n    from segtune.training.run import train"),
        ("segtune.report.analysis", "from segtune.studies import right_ventricle"),
        ("segtune.sweeps.plan", "from segtune.training.run import train"),
        ("segtune.training.run", "from segtune.config import entry"),
        ("segtune.runs.files", "from segtune.metrics.score import score_pairs"),
    ],
)
def test_a_breach_is_caught(module, line):
    assert len(list(breaches(module, line))) == 1


@pytest.mark.parametrize(
    "module",
    [
        *("runs.state", "runs.sweep", "runs.archive", "cli", "report.frames"),
        *("runs.inputs", "runs.tables", "config.entry", "config.rules", "metrics.distances"),
        *(
            "metrics.volumes",
            "sweeps.plan",
            "sweeps.launch",
            "sweeps.local",
            "sweeps.slurm",
            "sweeps.overview",
            "inference.card",
        ),
        *("plots.curves", "report.page", "report.__main__", "__main__", "status", "predict", "data.images", "data.readers"),
    ],
)
def test_what_reads_results_or_plans_a_sweep_needs_no_torch(module):
    subprocess.run([sys.executable, "-c", f"import without_torch, segtune.{module}"], check=True, cwd=Path(__file__).parent)


def test_a_torch_import_would_be_caught():
    code = "import without_torch, segtune.losses"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=Path(__file__).parent).returncode != 0
