"""`python -m dvfs` is the program `dvfs`."""

from dvfs.cli.main import main

if __name__ == "__main__":
    main()
