"""python -m jaxmap.cli."""

from jaxmap.cli.app import main

if __name__ == "__main__":
    main()
