"""What `pulumi up` in this folder runs; the Automation API (lifecycle.py) runs the same function."""

from stacks.local.program import main

main()
