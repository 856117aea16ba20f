"""Error rates, power and coverage of a report's verdicts, by simulation: python benchmarks/statistics.py [--sweeps 500].

The simulations are in verdicts.py. A script's folder comes first on Python's path, so that `import statistics` finds this file
instead of Python's own module. In that case this file hands over to that module.
"""

import importlib.util
import os
import sys
from pathlib import Path

if __name__ == "__main__":
    from verdicts import main

    main()
else:
    spec = importlib.util.spec_from_file_location(__name__, Path(os.__file__).with_name("statistics.py"))
    assert spec is not None
    assert spec.loader is not None
    sys.modules[__name__] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[__name__])
