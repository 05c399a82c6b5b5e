"""pytest and `pytest --nbval` alike: notebooks run without progress bars, whose output is never twice the same."""

import os

os.environ["TQDM_DISABLE"] = "1"
