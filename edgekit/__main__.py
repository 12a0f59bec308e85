"""`python -m edgekit` is `edgekit`."""

import sys

try:
    from edgekit.cli import main

    sys.exit(main())
except KeyboardInterrupt:  # before main could take care of it
    sys.exit(130)
