"""Mend in the built pages what Sphinx and its theme get wrong, and no option of theirs changes."""

import html
import re
from pathlib import Path
from urllib.parse import unquote

from PIL import Image

REPLACED = (
    # Chromium refuses a font from a disk if it was preloaded as one of another origin; without, it loads from the CSS.
    (re.compile(r'<link rel="preload" as="font"[^>]*>\n?'), ""),
    # The style sheet draws the same icons as these 1.5 MB of script, which every page would run again.
    (re.compile(r'\s*<script src="[^"]*fontawesome/[^"]*/js/all\.min\.js[^"]*"></script>'), ""),
    # Launching code in the page would load scripts from another host; nothing starts it here.
    (re.compile(r'\s*<script type="text/x-thebe-config">.*?</script>\s*<script>kernelName.*?</script>', re.DOTALL), ""),
    (re.compile(r"\s*<script>const THEBE_JS_URL.*?</script>"), ""),
    (re.compile(r"\s*<script [^>]*sphinx-thebe\.js[^>]*></script>"), ""),
    # Summaries and the search button have words in them already, which their labels leave out.
    (re.compile(r' aria-label="Toggle hidden content"'), ""),
    (re.compile(r'(<button class="btn search-button-field[^>]*?) aria-label="Search"'), r"\1"),
    (re.compile(r'<summary>(?=<span class="toctree-toggle")'), '<summary aria-label="Sections of this chapter">'),
    # A list has items; what docutils calls its entries is no longer a role.
    (re.compile(r'role="doc-biblioentry"'), 'role="listitem"'),
    # A parameter and its meaning; Sphinx's smart quotes would make a dash of it, and of every command's option.
    (re.compile(r"(<li><p><strong>[^<]*</strong>(?: \(.*?\))?) -- "), r"\1: "),
    (re.compile(r'aria-label="light/dark"'), 'aria-label="Light or dark"'),
)
SIGNATURE = re.compile(r'<dt class="sig .*?</dt>', re.DOTALL)
IMAGE = re.compile(r'<img (?![^>]*\bwidth=)([^>]*?)src="([^":]+)"([^>]*?)/?>')


def with_size(page: Path, match: re.Match) -> str:
    """Return an image's tag with its width and height, so that text does not jump when the picture arrives."""
    file = page.parent / unquote(html.unescape(match[2]))
    if file.suffix == ".svg" or re.search(r'style="[^"]*(width|height)', match[0]):
        return match[0]
    with Image.open(file) as image:
        width, height = image.size
    return f'<img {match[1]}src="{match[2]}"{match[3].rstrip()} width="{width}" height="{height}" loading="lazy" />'


def signature_without_list(match: re.Match) -> str:
    """Return a signature whose parameters are no definition list: they have nothing but definitions."""
    text = re.sub(r"<dl>", '<div class="sig-params">', match[0])
    return text.replace("</dl>", "</div>").replace("<dd>", "<div>").replace("</dd>", "</div>")


def finished(page: Path, text: str) -> str:
    """Return the page's text, mended."""
    for pattern, replacement in REPLACED:
        text = pattern.sub(replacement, text)
    text = SIGNATURE.sub(signature_without_list, text)
    return IMAGE.sub(lambda match: with_size(page, match), text)


def finish(site: Path) -> None:
    """Mend every page of a built site."""
    for page in site.rglob("*.html"):
        if "_static" not in page.relative_to(site).parts:
            page.write_text(finished(page, page.read_text(encoding="utf-8")), encoding="utf-8")
