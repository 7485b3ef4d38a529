"""`python -m fedmoe`: the command line."""

from fedmoe.cli import main

if __name__ == "__main__":
    main()
