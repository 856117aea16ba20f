"""kill -9 at chosen moments of a sweep, which is then started again with the same command.

    python tests/faults/killed.py            12 runs, the ten moments of MOMENTS, one kill after another
    python tests/faults/killed.py --short    4 runs, six of the moments: what CI runs

Prints where each kill fell and what the sweep then said of itself, and compares the final table (every number of
result.json, history.csv, slices.csv, pictures.npz and the checkpoints' weights, less what is measured) with that of an
undisturbed sweep. Exit code 1 if they differ.

    python tests/faults/killed.py --at MOMENT N <segtune's arguments>

is what it starts: segtune in a process that kills itself at the Nth time it comes to that moment.
"""

import hashlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

TINY = [
    *("data.n_patients=4", "data.size=32", "model.width=2", "trainer.threads=1", "trainer.accelerator=cpu"),
    *("trainer.max_epochs=4", "batch=10", "figures=false"),
]
GRID = ["loss=bce,focal,bce_dice", "split=0.2,0.4", "reg=none,l2", "-m"]
SHORT = ["loss=bce,bce_dice", "split=0.4", "reg=none,l2", "-m"]
MOMENTS = [  # (moment, how often it is passed before the kill)
    ("inside an epoch", 7),
    ("inside a checkpoint write", 3),
    ("inside a history line", 3),
    ("between result and rename", 2),
    ("inside an epoch", 27),
    ("inside a checkpoint write", 6),
    ("between the last and the best checkpoint", 1),
    ("inside sweep.json", 1),
    ("between slices.csv and result.json", 1),
    ("before status says completed", 1),
]


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(moment: str, n: int) -> None:
    """Make this process kill itself the nth time it comes to that moment."""
    from segtune.runs import layout
    from segtune.runs.files import replacing, write_atomically
    from segtune.runs.tables import append_history

    count = [0]

    def due() -> bool:
        count[0] += 1
        return count[0] == n

    def half_written(path: Path, content: bytes, name: str) -> None:
        """Half the content in the temporary file, and no more."""
        if path.name.startswith(name) and due():
            with replacing(path) as temporary:
                temporary.write_bytes(content[: len(content) // 2])
                kill()

    whole = write_atomically
    if moment == "inside an epoch":
        from segtune.training.module import Segmenter

        step = Segmenter.training_step

        def training_step(self: Any, *args: Any) -> Any:
            if due():
                kill()
            return step(self, *args)

        Segmenter.training_step = training_step  # type: ignore[method-assign]
    elif moment == "inside a history line":
        append = append_history

        def append_half(folder: Path, row: Any) -> None:
            append(folder, row)
            if due():
                os.truncate(folder / layout.HISTORY, (folder / layout.HISTORY).stat().st_size - 60)
                kill()

        replace_everywhere("append_history", append_half)
    else:
        names = {
            "inside a checkpoint write": "last.ckpt",
            "between the last and the best checkpoint": "best.ckpt",
            "between result and rename": "result.json",
            "inside sweep.json": "sweep.json",
            "between slices.csv and result.json": "pictures.npz",
            "before status says completed": "status.json",
        }

        def write(path: Path, content: bytes, **how: Any) -> None:
            if moment == "between result and rename":
                if path.name == names[moment] and due():
                    with replacing(path) as temporary:
                        temporary.write_bytes(content)  # all of it; only the rename is missing
                        kill()
            elif moment == "before status says completed":
                if path.name == names[moment] and b'"completed"' in content and due():
                    kill()
            else:
                half_written(path, content, names[moment])
            whole(path, content, **how)

        replace_everywhere("write_atomically", write)


def replace_everywhere(name: str, function: Callable[..., Any]) -> None:
    """Put a function in the place of one of segtune's in all modules that a run imports, each of which may hold its name."""
    import segtune.training.run  # noqa: F401 -- imports the others

    modules = [module for key, module in sys.modules.items() if key.startswith("segtune.") and hasattr(module, name)]
    assert modules
    for module in modules:
        setattr(module, name, function)


def table(outputs: Path) -> str:
    """A line for each file of each finished run: a digest of all in it that is not measured. One text, to the byte."""
    import torch

    from segtune.runs.result import MEASURED, read_result, without_measurements
    from segtune.runs.tables import read_history

    lines = []
    for folder in sorted(path.parent for path in outputs.glob("runs/*/result.json")):
        result = without_measurements(read_result(folder))
        result["config"].pop("outputs")
        history = {key: values for key, values in read_history(folder).items() if key not in MEASURED}
        parts: dict[str, bytes] = {
            "result.json": json.dumps(result, sort_keys=True).encode(),
            "history.csv": json.dumps(history).encode(),
            **{name: (folder / name).read_bytes() for name in ("slices.csv", "cases.csv", "patients.csv")},
            "pictures.npz": (folder / "pictures.npz").read_bytes(),
        }
        for name in ("best.ckpt", "last.ckpt"):
            weights = torch.load(folder / "checkpoints" / name, weights_only=True)["state_dict"]
            parts[name] = b"".join(key.encode() + value.numpy().tobytes() for key, value in weights.items())
        dice = read_result(folder)["last"]["val_dice"]
        lines += [f"{folder.name} {dice!r} {name} {hashlib.sha256(part).hexdigest()}" for name, part in parts.items()]
    return "\n".join(lines) + "\n"


def sweep(outputs: Path, arguments: list[str], at: tuple[str, int] | None = None) -> subprocess.CompletedProcess[str]:
    start = [sys.executable, __file__, "--at", at[0], str(at[1])] if at else [sys.executable, "-m", "segtune"]
    command = [*start, *TINY, *arguments, f"outputs={outputs}"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def where(outputs: Path) -> str:
    """Which runs are not done after a kill, how far each is, and what it left unfinished."""
    from segtune.runs.state import epochs_done, state_of

    words = []
    for folder in sorted(path.parent for path in outputs.glob("runs/*/status.json")):
        state, _ = state_of(folder, folder.name)
        if state == "stale":
            left = [path.name.split(".")[1] for path in folder.rglob("*.partial")]
            words.append(f"run {folder.name}, {epochs_done(folder)} epochs in history{', half a ' + left[0] if left else ''}")
    done = len(list(outputs.glob("runs/*/result.json")))
    return f"{done} done; {'; '.join(words) or 'no run cut off'}"


def main(short: bool, say: Callable[[str], None] = print) -> bool:
    """Whether the disturbed sweep ends as the undisturbed one."""
    arguments = SHORT if short else GRID
    moments = [MOMENTS[index] for index in ((0, 1, 2, 3, 6, 9) if short else range(len(MOMENTS)))]
    with tempfile.TemporaryDirectory() as folder:
        calm, disturbed = Path(folder) / "calm", Path(folder) / "disturbed"
        ended = sweep(calm, arguments)
        assert ended.returncode == 0, ended.stderr
        for number, moment in enumerate(moments, start=1):
            ended = sweep(disturbed, arguments, moment)
            if ended.returncode != -signal.SIGKILL:
                say(f"kill {number} {moment} did not fall: {ended.stdout}{ended.stderr}")
                return False
            say(f"kill {number:2}: {moment[0]} (time {moment[1]}). {where(disturbed)}")
        ended = sweep(disturbed, arguments)
        say(f"undisturbed at last: {ended.stdout.splitlines()[0]}")
        one, other = table(calm), table(disturbed)
        say(f"tables of {len(one.splitlines())} lines: {'the same to the byte' if one == other else 'DIFFERENT'}")
        return ended.returncode == 0 and one == other


if __name__ == "__main__":
    if sys.argv[1:2] == ["--at"]:
        arm(sys.argv[2], int(sys.argv[3]))
        sys.argv[1:] = sys.argv[4:]
        runpy.run_module("segtune", run_name="__main__", alter_sys=True)
    else:
        sys.exit(not main(short="--short" in sys.argv))
