"""What imports what: the library stands without the book."""

from pathlib import Path

import mmlib


def test_the_library_does_not_import_the_book():
    modules = list(Path(mmlib.__file__).parent.rglob("*.py"))
    assert len(modules) > 20
    assert [str(path) for path in modules if "mmbook" in path.read_text()] == []
