"""What turns notebooks and records into a site; run as `python -m tools.<name>` from the repository's root."""
