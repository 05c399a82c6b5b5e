"""Stage the executed notebooks beside the prose, build the site with warnings as errors, and swap it in.

python -m tools.site build/site --notebooks build/notebooks --results book/results/digits

The site is built aside: until it is whole, and after a failure, `build/site` is the one before.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from mmbook import machine
from tools import pages
from tools.landing import write_parts

MATHJAX = ("es5/tex-chtml.js", "es5/output/chtml/fonts/woff-v2")
HTML = Path("_build", "html")


def stage(site: Path, notebooks: Path, results: Path) -> None:
    """Lay prose, notebooks, examples, generated tables and MathJax under `site`, by their paths in the repository."""
    shutil.copytree("book", site / "book", ignore=shutil.ignore_patterns("results"))
    shutil.copytree(notebooks, site / "notebooks")
    shutil.copytree("examples", site / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(name, site)
    generated = site / "book" / "generated"
    write_parts(generated, results)
    (generated / "machine.md").write_text(machine.page(*machine.compare_embedded()), encoding="utf-8")
    # MathJax lies in the site itself, so that its pages ask nothing of other hosts.
    package = Path(find_spec("mathjax").submodule_search_locations[0]) / "static" / "mathjax"
    for name in MATHJAX:
        target = site / "static" / "mathjax" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (package / name).is_dir() else shutil.copy
        copy(package / name, target)


def build(staged: Path) -> subprocess.CompletedProcess:
    """Run jupyter-book over what is staged."""
    program = str(Path(sys.executable).with_name("jupyter-book"))
    # The API pages import `tools`, which is not installed.
    path = os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [program, "build", "-W", "-n", "--keep-going", str(staged)],
        capture_output=True,
        encoding="utf-8",
        check=False,
        env=os.environ | {"PYTHONPATH": path},
    )


def publish(built: Path, site: Path) -> None:
    """Make `site` a link to the folder `built` beside it, in one step, and remove what it was before.

    A reader finds the site before or the new one at every moment, never none. (The exception is a `site` that is a
    folder, which becomes a link once.)
    """
    before = site.resolve() if site.is_symlink() else None
    if before is None and site.exists():
        before = site.rename(site.with_name(f"{built.name}.before"))
    link = site.with_name(f"{built.name}.link")
    link.symlink_to(built.name, target_is_directory=True)
    link.replace(site)
    if before:
        shutil.rmtree(before, ignore_errors=True)


def make(site: Path, notebooks: Path, results: Path) -> int:
    """Build the site aside and swap it in; a failure shows the builder's output, and leaves `site` as it was."""
    site.parent.mkdir(parents=True, exist_ok=True)
    built = Path(tempfile.mkdtemp(prefix=f"{site.name}.", dir=site.parent))
    built.chmod(0o755)
    try:
        stage(built, notebooks, results)
        done = build(built)
        if done.returncode:
            print(done.stdout, done.stderr, file=sys.stderr)
            return done.returncode
        pages.finish(built / HTML)
        publish(built, site)
    finally:
        if not site.is_symlink() or site.resolve() != built.resolve():
            shutil.rmtree(built)
    return 0


def main(arguments: list[str]) -> int:
    """Build the site from what is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("site", type=Path)
    parser.add_argument("--notebooks", type=Path, required=True, help="the folder of executed notebooks")
    parser.add_argument("--results", type=Path, required=True, help="the ledger that the results table is made from")
    given = parser.parse_args(arguments)
    return make(given.site, given.notebooks, given.results)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
