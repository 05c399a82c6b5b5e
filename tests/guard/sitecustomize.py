"""Python runs this first in the processes that tests start: the root's `conftest.py` puts its folder on their path."""

import network_guard  # noqa: F401
