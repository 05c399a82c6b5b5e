"""The type checker of annotations while the tests run: beartype.

It checks tensors' shapes and types. Numbers are left to the code's own checks, which take those of NumPy and torch
and whose errors are tested.
"""

from beartype import BeartypeConf, FrozenDict, beartype

typechecker = beartype(conf=BeartypeConf(hint_overrides=FrozenDict({int: object, float: object})))
