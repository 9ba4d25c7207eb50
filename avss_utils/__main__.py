"""``python -m avss_utils``."""

import sys

from avss_utils.commands.cli import main

sys.exit(main())
