"""Commands that turn notebooks and records into a site. Each runs as `python -m tools.<name>` from the root."""
