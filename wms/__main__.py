"""`python -m wms` serves, as `python -m wms.serve` does."""

import sys

from wms.serve import main

if __name__ == "__main__":
    sys.exit(main())
