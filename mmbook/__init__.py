"""What the book has beyond the library: its grids and their ledger, its pictures, and detectors on mmlib's encoders.

`mmlib` never imports it; who takes MultiMix into a training loop needs none of it.
"""
