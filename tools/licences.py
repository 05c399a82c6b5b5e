"""The page of the locked packages' licences, as the installed packages declare them.

python -m tools.licences    writes book/licences.md
"""

import argparse
import re
import sys
from collections import Counter
from importlib import metadata
from pathlib import Path

PIN = re.compile(r"(?P<name>[\w.-]+)==(?P<version>[^ ;]+)(?: ; (?P<where>.+))?")
PAGE = Path("book/licences.md")
# Several spellings of one licence.
SPELLINGS = {
    "Apache Software License": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "BSD License": "BSD",
    "FreeBSD": "BSD",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "NVIDIA Proprietary Software": "LicenseRef-NVIDIA-Proprietary",
    "Python Software Foundation License": "PSF-2.0",
}
INTRODUCTION = """# Licences

The packages that `requirements.lock` pins and what each declares as its licence, written by `python -m tools.licences`.
They make the book and test the code; the library itself needs torch and NumPy. None is part of this repository.

"""


def pins(lock: str) -> list[dict[str, str | None]]:
    """Read name, version and condition of each line of a lock.

    >>> pins("numpy==2.4.6 ; python_full_version < '3.12'")
    [{'name': 'numpy', 'version': '2.4.6', 'where': "python_full_version < '3.12'"}]
    """
    found = []
    for line in lock.splitlines():
        if not (pin := PIN.fullmatch(line)):
            raise ValueError(f"a lock's lines must be like numpy==2.4.6 ; python_version < '3.12', got {line!r}")
        found.append(pin.groupdict())
    return found


def licence(name: str, version: str) -> str | None:
    """Return what an installed package declares as its licence; None where that version is not installed.

    >>> licence("torch", "0.0") is None
    True
    """
    try:
        declared = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return None
    if declared["Version"] != version:
        return None
    classes = [c.split(" :: ")[-1] for c in declared.get_all("Classifier") or [] if c.startswith("License :: ")]
    words = declared["License-Expression"] or "; ".join(c for c in classes if c != "OSI Approved")
    words = words or (declared["License"] or "").split("\n", 1)[0] or _of_text(name)
    return "; ".join(SPELLINGS.get(word, word) for word in words.split("; "))


def _of_text(name: str) -> str:
    """Name the licence by the title of the package's licence file, where its metadata names none."""
    for file in metadata.files(name) or []:
        if file.name.startswith("LICENSE"):
            title = file.read_text(encoding="utf-8").strip().split("\n", 1)[0].strip()
            return title if title.endswith("License") else "MIT" if "MIT" in title else "its own"
    return "not declared"


def page(lock: str) -> str:
    """Write the page: how many packages have each licence, then all of them; of other systems at the end."""
    found = [(pin, licence(pin["name"], pin["version"])) for pin in pins(lock)]
    counts = Counter(words for _, words in found if words).most_common()
    lines = ["| licence | packages |", "|---|---:|", *(f"| {words} | {count} |" for words, count in counts), ""]
    lines += ["| package | version | licence |", "|---|---|---|"]
    lines += [f"| {pin['name']} | {pin['version']} | {words} |" for pin, words in found if words]
    elsewhere = [pin for pin, words in found if words is None]
    if elsewhere:
        lines += [
            "",
            "Pinned for other systems or versions of Python, and not installed where this page was written:",
            "",
        ]
        lines += [f"- {pin['name']} {pin['version']} (`{pin['where']}`)" for pin in elsewhere]
    return INTRODUCTION + "\n".join(lines) + "\n"


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    try:
        PAGE.write_text(page(Path("requirements.lock").read_text(encoding="utf-8")), encoding="utf-8")
    except OSError as error:
        sys.exit(f"licences: {error}")
