"""``python -m avss_utils``."""

import sys

from avss_utils.cli import main

sys.exit(main())
