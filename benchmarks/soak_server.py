"""``toolkit serve`` as it is, but for its ONNX Runtime sessions, one of which dies when SIGUSR1 comes.

The arguments are those of ``toolkit serve``.
"""

import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
# Python puts a script's folder first, where calibration.py would be taken for the package of the same name.
sys.path[:] = [str(FOLDER.parent), *(entry for entry in sys.path if Path(entry or ".").resolve() != FOLDER)]


def main() -> None:
    from benchmarks.soak_model import listen_for_death
    from engines.sessions import BACKENDS
    from toolkit.cli import run

    BACKENDS["onnxruntime"] = "benchmarks.soak_model:Mortal"
    listen_for_death()
    sys.exit(run(["serve", *sys.argv[1:]]))


if __name__ == "__main__":
    main()
