"""Run the command line: `python -m palaver_server`."""

from palaver_server.cli.main import main

if __name__ == "__main__":
    main()
