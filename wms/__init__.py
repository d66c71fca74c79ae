"""The reference warehouse service that the stacks deploy and wmsctl operates against. It imports neither of
them.
"""

VERSION = "0.1.0"
