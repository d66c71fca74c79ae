"""`python -m wmsctl` is the same as `wmsctl`."""

import sys

from wmsctl.main import main

sys.exit(main())
