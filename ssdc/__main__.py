"""`python -m ssdc`: the console script without its installation."""

from ssdc.cli.main import main

if __name__ == "__main__":
    main()
