"""`python -m cdpgen`."""

from cdpgen.cli import main

main()
