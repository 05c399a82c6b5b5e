"""Show the built site on this machine alone, until Ctrl-C.

python -m tools.serve [--port 8000]

A site that `make book` swaps in meanwhile is shown from then on.
"""

import argparse
import functools
import http.server
import sys
from pathlib import Path

SITE = Path("build/site/_build/html")


def server(folder: Path, port: int) -> http.server.ThreadingHTTPServer:
    """Return a server of the site in `folder` at 127.0.0.1; port 0 takes a free one.

    Raises:
        FileNotFoundError: there is no site in `folder`.
    """
    if not (folder / "index.html").is_file():
        raise FileNotFoundError(f"there is no site in {folder}; `make book` makes one")
    # By its path and not by what the path leads to now, which the next build removes.
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder.absolute()))
    return http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)


def main(arguments: list[str]) -> None:
    """Print the address and serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    given = parser.parse_args(arguments)
    with server(SITE, given.port) as book:
        print(f"The book is at http://127.0.0.1:{book.server_port}/ until Ctrl-C.", flush=True)
        book.serve_forever()


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        print()
    except OSError as error:
        sys.exit(f"serve: {error}")
