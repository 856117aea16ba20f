"""Execution backend that executes runs one after another in this process."""

from collections import deque
from collections.abc import Sequence
from pathlib import Path

from segtune.runs.state import BusyError
from segtune.sweeps.execute import describe_failure, execute, report_failure
from segtune.sweeps.launch import Failures, Sweep
from segtune.sweeps.plan import Run


def run_serially(runs: Sequence[Run], sweep: Sweep | None, *, halt: Path | None = None, bar: bool = True) -> Failures:
    """Execute runs one after another in this process. Runs that another process is working on come last.

    Args:
        sweep: the sweep whose progress bar is updated, if any.
        halt: no further run is started once this file exists.
        bar: whether to show a progress bar for each run.
    Returns: the failures, by run id.
    """
    failures: Failures = {}
    queue = deque((run, False) for run in runs)
    while queue and not (halt and halt.exists()):
        run, wait = queue.popleft()
        if sweep:
            sweep.progress.running(1)
        try:
            execute(run, wait=wait, bar=bar)
        except BusyError:
            queue.append((run, True))
            continue
        except Exception as error:
            failures[run.run_id] = report_failure(run, describe_failure(error), halt)
        if sweep:
            sweep.progress.ended(failed=run.run_id in failures)
    return failures
