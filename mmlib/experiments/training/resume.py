"""The conditions for a run to go on from a checkpoint or to be read instead of trained again."""

import dataclasses

from mmlib.experiments import data
from mmlib.experiments.provenance import code_digest
from mmlib.experiments.training import distributed
from mmlib.experiments.training.config import Config, result_config

# What the state of a checkpoint has, in `Trainer.state`.
STATE = (
    "resume_identity",
    "device_type",
    "method",
    "optimizer",
    "order_generator",
    "augmentation_generator",
    "processes",
    "history",
)
DEFAULTS = dataclasses.asdict(Config())
# The errors of a state that has all this and is not what `Trainer.state` returned.
STATE_ERRORS = (AttributeError, KeyError, IndexError, TypeError, RuntimeError)


def resume_identity(config: Config, dataset: data.Dataset) -> dict:
    """Return all that must be unchanged for a run to resume from a checkpoint, its kind of device excepted."""
    return result_config(config, dataset) | {"code": code_digest(), "processes": distributed.world_size()}


def first_mismatch(stored: dict, expected: dict) -> tuple[str, object, object] | None:
    """Find the first parameter in which a stored run differs from what is expected.

    A parameter that `stored` lacks has `Config`'s default: the run was made before that parameter existed.

    Returns:
        The parameter's name, its stored value and its expected value, or None if nothing differs.

    >>> first_mismatch({"lr": 0.1}, {"lr": 0.1, "optimizer": "adamw"})
    ('optimizer', 'sgd', 'adamw')
    """
    stored = DEFAULTS | stored
    for name, value in expected.items():
        if stored.get(name) != value:
            return name, stored.get(name), value
    return None


def mismatch_reason(state: dict, expected: dict) -> str | None:
    """Say why a run cannot use the state of a checkpoint; None if it can.

    Args:
        expected: what `resume_identity` or `result_config` returns.
    """
    if not isinstance(state.get("resume_identity"), dict):
        return "is not a checkpoint of a run"
    if missing := [name for name in STATE if name not in state]:
        return f"is not whole (it has no {', '.join(missing)})"
    mismatch = first_mismatch(state["resume_identity"], expected)
    if mismatch is None:
        return None
    name, stored, value = mismatch
    return f"was made with {name} {stored!r}, not {value!r}"
