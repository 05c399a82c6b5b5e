"""The book's own code: grids, the ledger of their runs, verdicts, pictures, and detectors on the encoders of `mmlib`.

`mmlib` never imports it. A training loop that uses MultiMix needs none of it.
"""
