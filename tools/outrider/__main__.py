"""``python -m outrider``: the same as the console script, for where no script is installed on the path."""

from outrider.cli import main

if __name__ == "__main__":
    main()
