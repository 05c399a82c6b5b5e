"""What checks annotations while the tests run: beartype, with a whole number serving as a float, as Python has it."""

from beartype import BeartypeConf, beartype

typechecker = beartype(conf=BeartypeConf(is_pep484_tower=True))
