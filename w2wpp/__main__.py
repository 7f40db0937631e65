"""`python -m w2wpp` is the command `w2wpp`."""

from w2wpp.cli import main

main()
