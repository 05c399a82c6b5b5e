"""Write badges, launch buttons and the notebooks' install cell from the repository's address in pyproject.toml.

python -m tools.links

The address stands in one place, `[project.urls] Repository = "https://github.com/OWNER/NAME"`. Where it is not set, no
badge and no button is shown. A notebook installs from the clone that it lies in; one that lies in none, as on Colab,
clones the repository first, because chapters read its records.
"""

import argparse
import json
import re
import sys
import tomllib
from pathlib import Path

BADGE = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
BADGE_LINE = re.compile(r"^\[!\[Open in Colab\].*\n\n", re.MULTILINE)
CLONE = """if not any(Path(folder, "pyproject.toml").exists() for folder in (".", "..")):
    !git clone --quiet --depth 1 {address}
    %cd -q {name}/notebooks
"""
CLONE_LINES = re.compile(r"^if not any\(Path.*\n    !git clone .*\n    %cd .*\n", re.MULTILINE)
CONFIG_BLOCK = re.compile(r"\n# Written by `make links`.*?# End of links\.\n", re.DOTALL)


def repository(root: Path) -> str | None:
    """Return the repository's address, or None where it is not set.

    Raises:
        ValueError: the address is not of the form https://github.com/OWNER/NAME.
    """
    urls = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"].get("urls", {})
    address = urls.get("Repository")
    if address is not None and not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", address):
        raise ValueError(f"project.urls.Repository must be https://github.com/OWNER/NAME, got {address!r}")
    return address


def colab(address: str, notebook: str) -> str:
    """Return the badge that opens a notebook of the repository in Colab."""
    owner_and_name = address.removeprefix("https://github.com/")
    return f"{BADGE}(https://colab.research.google.com/github/{owner_and_name}/blob/main/{notebook})"


def link_notebook(path: Path, address: str | None) -> None:
    """Write the badge over a notebook's title, and into its install cell how to clone the repository."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for i, cell in enumerate(notebook["cells"]):
        source = BADGE_LINE.sub("", "".join(cell["source"]))
        if i == 0 and address:
            source = f"{colab(address, f'notebooks/{path.name}')}\n\n{source}"
        source = CLONE_LINES.sub("", source)
        if address:
            clone = CLONE.format(address=address, name=address.rpartition("/")[2])
            source = source.replace("_source = ", f"{clone}_source = ")
        cell["source"] = source.splitlines(keepends=True)
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def link_readme(path: Path, address: str | None) -> None:
    """Write the badge under README's title."""
    text = BADGE_LINE.sub("", path.read_text(encoding="utf-8"))
    if address:
        title, rest = text.split("\n\n", 1)
        text = f"{title}\n\n{colab(address, 'notebooks/01-multimix.ipynb')}\n\n{rest}"
    path.write_text(text, encoding="utf-8")


def link_config(path: Path, address: str | None) -> None:
    """Write the site's repository and launch buttons."""
    text = CONFIG_BLOCK.sub("", path.read_text(encoding="utf-8"))
    if address:
        text += (
            "\n# Written by `make links` from pyproject.toml.\n"
            f"repository: {{url: {address}, branch: main}}\n"
            "launch_buttons: {colab_url: https://colab.research.google.com}\n"
            "# End of links.\n"
        )
    path.write_text(text, encoding="utf-8")


def link(root: Path) -> None:
    """Write the address into everything in the repository that shows it."""
    address = repository(root)
    for notebook in sorted((root / "notebooks").glob("*.ipynb")):
        link_notebook(notebook, address)
    link_readme(root / "README.md", address)
    link_config(root / "_config.yml", address)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    try:
        link(Path())
    except (ValueError, OSError) as error:
        sys.exit(f"links: {error}")
