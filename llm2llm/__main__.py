"""`python -m llm2llm` is the `llm2llm` command."""

import sys

from llm2llm.cli.main import main

if __name__ == "__main__": sys.exit(main())
