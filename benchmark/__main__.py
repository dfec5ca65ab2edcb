"""`python -m oodbench.benchmark`, the same as `bench`."""

from oodbench.benchmark.cli import main

if __name__ == "__main__":
    main()
