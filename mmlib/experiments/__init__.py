"""The experiments of the book: data sets, networks, training methods, the training loop, evaluation and run folders.

==============  ===================================================================================
seeding         independent random streams from the one seed of a run
processor       one instruction set for all x86-64 processors
provenance      the code and the machine that made a run
data            data sets, mini-batches and their augmentation
models          networks: an encoder and a linear head
methods         training methods, one file for each family
evaluation      metrics of a trained network, attacks, out-of-distribution detection
training        configuration, optimizer, loop, checkpoints, several processes
runs            run folders: writing, reading and checking them
arguments       command-line options from the fields of a dataclass
==============  ===================================================================================

A module imports only from those above it in this table, and from `mmlib` itself. `python -m mmlib.experiments` trains
one run, evaluates it and writes its folder.
"""
