"""What the book runs: data sets, networks, training methods, the training loop, evaluation and run folders.

==============  ===================================================================================
data            data sets, mini-batches and their augmentation
models          networks: an encoder and a linear head
methods         training methods, one file a family
evaluation      metrics of a trained network, attacks, out-of-distribution detection
training        configuration, optimiser, loop, checkpoints, several processes
runs            run folders: writing, reading and checking them, and what made a run
==============  ===================================================================================

A module imports only from those above it in this table, and from `mmlib` itself.
"""
