"""``python -m avss_utils``."""

import contextlib
import os
import sys

# Python puts the working folder first, where nothing is meant to be imported: what lies beside a
# model could stand in for a library. This package has been found by now, wherever it lies.
with contextlib.suppress(FileNotFoundError):  # the working folder is gone
    if not sys.flags.safe_path and sys.path[0] == os.getcwd():
        del sys.path[0]

from avss_utils.commands.cli import main

sys.exit(main())
