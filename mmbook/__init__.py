"""What the book has beyond the library: grids, runs and their ledger, pictures, detectors on mmlib's encoders, data.

`mmlib` never imports it; who takes MultiMix into a training loop needs none of it.
"""
