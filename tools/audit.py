"""Compare the pins of requirements.lock with the Python Packaging Advisory Database, without a network.

git clone https://github.com/pypa/advisory-database
python -m tools.audit advisory-database

It prints a line for every known vulnerability of a pinned version, and fails if there is one. It knows only what the
copy of the database does; the day of its newest entry is printed.
"""

import argparse
import re
import sys
from pathlib import Path

import yaml
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from tools.licences import pins

PUBLISHED = re.compile(r"^published: .?(\d{4}-\d{2}-\d{2})", re.MULTILINE)
WITHDRAWN = re.compile(r"^withdrawn:", re.MULTILINE)


def advisories(database: Path) -> dict[str, list[str]]:
    """Read the texts of all advisories that were not withdrawn, by their package's canonical name."""
    found: dict[str, list[str]] = {}
    for path in sorted(database.glob("vulns/*/*.yaml")):
        text = path.read_text(encoding="utf-8")
        if not WITHDRAWN.search(text):
            found.setdefault(canonicalize_name(path.parent.name), []).append(text)
    return found


def concerns(advisory: dict, package: str, pinned: str) -> bool:
    """Tell whether a version is affected: listed, or in a range that was introduced before it and not fixed by it.

    A range with a limit that is no version counts as affected, for a person to look at. A local version, such as
    2.1+cpu, is as vulnerable as 2.1.

    >>> ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "1.2"}, {"fixed": "1.10"}]}]
    >>> affected = {"package": {"name": "A"}, "ranges": ranges, "versions": ["1.1.0"]}
    >>> [concerns({"affected": [affected]}, "a", version) for version in ("1.0", "1.1", "1.9+cpu", "1.10")]
    [False, True, True, False]
    """
    version = Version(Version(pinned).public)
    for affected in advisory["affected"]:
        if canonicalize_name(affected["package"]["name"]) != canonicalize_name(package):
            continue
        if any(_parsed(listed) == version for listed in affected.get("versions", ())):
            return True
        if any(_within(x["events"], version) for x in affected.get("ranges", ()) if x["type"] == "ECOSYSTEM"):
            return True
    return False


def _parsed(text: str) -> Version | None:
    try:
        return Version(text)
    except InvalidVersion:
        return None


def _within(events: list[dict[str, str]], version: Version) -> bool:
    limits = [(_parsed(limit), kind) for event in events for kind, limit in event.items()]
    if any(limit is None for limit, _ in limits):
        return True
    inside = False
    for limit, kind in sorted(limits):
        if version > limit or (version == limit and kind != "last_affected"):
            inside = kind == "introduced"
    return inside


def main() -> None:
    """Print what the database knows of the pins; exit with 1 if that is anything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("database", type=Path, help="a clone of the database")
    parser.add_argument("--lock", type=Path, default=Path("requirements.lock"))
    arguments = parser.parse_args()
    known = advisories(arguments.database)
    if not known:
        parser.error(f"database must be a folder with vulns/*/*.yaml in it, got {arguments.database}")
    pinned, found = pins(arguments.lock.read_text(encoding="utf-8")), []
    for name, version in ((pin["name"], pin["version"]) for pin in pinned):
        for text in known.get(canonicalize_name(name), ()):
            advisory = yaml.load(text, Loader=yaml.CSafeLoader)
            if concerns(advisory, name, version):
                found.append(" ".join([f"{name} {version}:", advisory["id"], *advisory.get("aliases", ())]))
    print(*found, sep="\n", end="\n" if found else "")
    known_pins = sum(canonicalize_name(pin["name"]) in known for pin in pinned)
    day = max(day for texts in known.values() for text in texts for day in PUBLISHED.findall(text))
    print(
        f"{len(pinned)} pins, {known_pins} of them with advisories until {day}, {len(found)} vulnerable",
        file=sys.stderr,
    )
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
