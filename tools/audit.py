"""Compare the pins of requirements.lock with the Python Packaging Advisory Database, without a network.

git clone https://github.com/pypa/advisory-database
python -m tools.audit advisory-database

It prints a line for every known vulnerability of a pinned version, and fails if there is one. It knows only what the
copy of the database does; the day of its newest entry is printed.
"""

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml
from packaging.utils import canonicalize_name
from packaging.version import Version

from tools.licences import pins

PUBLISHED = re.compile(r"^published: .?(\d{4}-\d{2}-\d{2})", re.MULTILINE)


def advisories(database: Path, package: str) -> Iterator[dict]:
    """Yield the advisories of a package that were not withdrawn."""
    for path in sorted(database.glob(f"vulns/{canonicalize_name(package)}/*.yaml")):
        advisory = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
        if "withdrawn" not in advisory:
            yield advisory


def concerns(advisory: dict, version: str) -> bool:
    """Tell whether a version is affected: listed, or in a range that was introduced before it and not fixed by it.

    >>> ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "1.2"}, {"fixed": "1.10"}]}]
    >>> advisory = {"affected": [{"ranges": ranges, "versions": ["1.2.1rc1"]}]}
    >>> [concerns(advisory, version) for version in ("1.1", "1.2.1rc1", "1.9", "1.10")]
    [False, True, True, False]
    """
    for affected in advisory["affected"]:
        if version in affected.get("versions", ()):
            return True
        for span in affected.get("ranges", ()):
            if span["type"] == "ECOSYSTEM" and _within(span["events"], Version(version)):
                return True
    return False


def _within(events: list[dict[str, str]], version: Version) -> bool:
    inside = False
    for limit, kind in sorted((Version(limit), kind) for event in events for kind, limit in event.items()):
        if version > limit or (version == limit and kind != "last_affected"):
            inside = kind == "introduced"
    return inside


def newest(database: Path) -> str:
    """Return the day of the newest entry of a database, 2024-10-10."""
    texts = (path.read_text(encoding="utf-8") for path in database.glob("vulns/*/*.yaml"))
    return max(day for text in texts for day in PUBLISHED.findall(text))


def main() -> None:
    """Print what the database knows of the pins; exit with 1 if that is anything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("database", type=Path, help="a clone of the database")
    parser.add_argument("--lock", type=Path, default=Path("requirements.lock"))
    arguments = parser.parse_args()
    if not (arguments.database / "vulns").is_dir():
        parser.error(f"database must be a folder with vulns/ in it, got {arguments.database}")
    pinned = pins(arguments.lock.read_text(encoding="utf-8"))
    found = [
        f"{pin['name']} {pin['version']}: {advisory['id']} {' '.join(advisory.get('aliases', ()))}".rstrip()
        for pin in pinned
        for advisory in advisories(arguments.database, pin["name"])
        if concerns(advisory, pin["version"])
    ]
    for line in found:
        print(line)
    known = sum(any((arguments.database / "vulns").glob(f"{canonicalize_name(pin['name'])}/*")) for pin in pinned)
    day = newest(arguments.database)
    print(f"{len(pinned)} pins, {known} of them with advisories until {day}, {len(found)} vulnerable", file=sys.stderr)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
