"""`python -m pgmeaning` is the command `pgmeaning`."""

from pgmeaning.cli.main import main

main()
