"""Stage the executed notebooks beside the prose, then build the site with warnings as errors.

python -m tools.site build/site --notebooks build/notebooks --results book/results/digits
"""

import argparse
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from tools.landing import write_parts

MATHJAX = ("es5/tex-chtml.js", "es5/output/chtml/fonts/woff-v2")


def stage(site: Path, notebooks: Path, results: Path) -> None:
    """Lay prose, notebooks, examples, generated tables and MathJax under `site`, by their paths in the repository."""
    shutil.rmtree(site, ignore_errors=True)
    shutil.copytree("book", site / "book", ignore=shutil.ignore_patterns("results"))
    shutil.copytree(notebooks, site / "notebooks")
    shutil.copytree("examples", site / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(name, site)
    write_parts(site / "book" / "generated", results)
    # MathJax lies in the site itself, so that its pages ask nothing of other hosts.
    package = Path(find_spec("mathjax").submodule_search_locations[0]) / "static" / "mathjax"
    for name in MATHJAX:
        target = site / "static" / "mathjax" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (package / name).is_dir() else shutil.copy
        copy(package / name, target)


def main() -> int:
    """Stage, build, and show the builder's output only if it fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("site", type=Path)
    parser.add_argument("--notebooks", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    arguments = parser.parse_args()
    stage(arguments.site, arguments.notebooks, arguments.results)
    build = [
        str(Path(sys.executable).with_name("jupyter-book")),
        "build",
        "-W",
        "-n",
        "--keep-going",
        str(arguments.site),
    ]
    # The API pages import `tools`, which is not installed.
    path = os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(build, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": path})
    if done.returncode:
        print(done.stdout, done.stderr, file=sys.stderr)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
