"""The command `segtune VERB ...`, which is equivalent to `python -m segtune.VERB ...`.

`segtune train` is python -m segtune, and `segtune sweep` is the same with -m.
"""

import os
import runpy
import signal
import sys
from difflib import get_close_matches

from segtune import __version__, errors
from segtune.config import usage


def main() -> None:
    """Run the verb given on the command line. Exit with code 2 if there is no such verb."""
    verb, *rest = sys.argv[1:] or ["--help"]
    errors.COMMAND[:] = ["segtune", verb, *rest]
    if verb in ("-h", "--help", "-V", "--version"):
        if hasattr(signal, "SIGPIPE"):
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a reader that stops early, like `| head`, ends this quietly
        print(usage.overview() if "h" in verb else f"segtune {__version__}")
        return
    if verb not in (known := list(usage.verbs())):
        nearest = "train" if "=" in verb else get_close_matches(verb, known, n=1, cutoff=0)[0]
        print(f"segtune: {errors.printable(verb)}: no such verb. Nearest: {nearest}. See segtune --help.", file=sys.stderr)
        sys.exit(2)
    sys.path.insert(0, os.getcwd())  # noqa: PTH109 as python -m does, so that the user's own modules are found
    sys.argv[1:] = [*rest, "-m"] if verb == "sweep" else rest
    module = "segtune" if verb in ("train", "sweep") else f"segtune.{verb}"
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
