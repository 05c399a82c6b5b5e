"""The JSON schema of `experiments.yml`, and errors that name the line and the nearest right name.

The schema is made from the code that takes the values: settings are the fields of `Config` and of the command line,
options the arguments of the methods. A new setting or method is known here as soon as it exists.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Iterable, Sequence

import jsonschema
import yaml

from mmlib._checks import nearest
from mmlib.experiments import models
from mmlib.experiments.__main__ import RuntimeOptions
from mmlib.experiments.methods import METHODS
from mmlib.experiments.methods.base import option_names
from mmlib.experiments.training.config import OPTIMIZERS, PRECISIONS, SCHEDULES, Config

TYPES = {int: "integer", float: "number", str: "string", bool: "boolean", dict: "object", list: "array"}
CHOICES = {
    "model": tuple(models.MODELS),
    "method": tuple(METHODS),
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "precision": PRECISIONS,
}
SEEDS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1, "uniqueItems": True}
NAMES = {"type": "array", "items": {"type": "string"}, "minItems": 1, "uniqueItems": True}
# What a cell may occupy while it runs; a GPU follows from `device` and `processes`.
RESOURCES = {
    "type": "object",
    "properties": {
        "minutes": {"type": "number", "exclusiveMinimum": 0},
        "memory_mib": {"type": "integer", "minimum": 1},
    },
    "additionalProperties": False,
}


def _is_finite_number(checker: jsonschema.TypeChecker, value: object) -> bool:
    """YAML has `.nan` and `.inf`, which JSON has not, and no range of a schema refuses NaN."""
    return jsonschema.Draft202012Validator.TYPE_CHECKER.is_type(value, "number") and math.isfinite(value)


Validator = jsonschema.validators.extend(
    jsonschema.Draft202012Validator,
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine("number", _is_finite_number),
)


def schema() -> dict:
    """Make the JSON schema of a file of grids.

    >>> sorted(schema()["additionalProperties"]["properties"])
    ['cross', 'datasets', 'embeddings', 'from', 'seeds', 'settings', 'variants', 'weights']
    """
    settings = _settings()
    overrides = settings | {"seeds": SEEDS, "resources": RESOURCES}
    variant = _object(overrides, required=["method"]) | {"allOf": [_options_of(name) for name in METHODS]}
    grid = {
        "seeds": SEEDS,
        "embeddings": {"type": "boolean"},
        "weights": {"type": "boolean"},
        "settings": _object(settings | {"resources": RESOURCES}),
        "datasets": _map(_object(overrides | {"only": NAMES})),
        "variants": _map(variant),
        "cross": _object({name: {"type": "array", "items": of, "minItems": 1} for name, of in settings.items()}),
        "from": _map(NAMES),
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Grids of runs",
        **_map(_object(grid, required=["seeds"])),
    }


def _settings() -> dict[str, dict]:
    fields = {}
    for settings in (Config, RuntimeOptions):
        hints = typing.get_type_hints(settings)
        fields |= {field.name: _of_type(hints[field.name]) for field in dataclasses.fields(settings)}
    for name, choices in CHOICES.items():
        fields[name] = {"enum": list(choices)}
    del fields["folder"], fields["seed"]  # a cell's own
    at_least_one = {"type": "integer", "minimum": 1}
    return fields | {"processes": at_least_one, "nodes": at_least_one, "stage": {"type": "string", "minLength": 1}}


def _of_type(annotation: object) -> dict:
    kinds = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    return {"type": ["null" if kind is type(None) else TYPES[kind] for kind in kinds]}


def _options_of(method: str) -> dict:
    """Say which options a method takes, where a variant has it."""
    options = {
        "type": "object",
        "properties": {"options": _object({name: {} for name in option_names(METHODS[method])})},
    }
    return {"if": {"properties": {"method": {"const": method}}}, "then": options}


def _object(properties: dict, required: Sequence[str] = ()) -> dict:
    found = {"type": "object", "properties": properties, "additionalProperties": False}
    return found | ({"required": list(required)} if required else {})


def _map(of: dict) -> dict:
    return {"type": "object", "additionalProperties": of}


def read_grids(text: str, name: str = "experiments.yml") -> dict[str, dict]:
    """Read a file of grids and check it.

    Args:
        text: the YAML of the file.
        name: of the file, for errors.

    Raises:
        ValueError: in one line, what is wrong, the line of the file and, for a wrong name, the nearest right one.

    >>> read_grids("fast: {seeds: [0], variants: {erm: {metod: erm}}}")
    Traceback (most recent call last):
    ValueError: experiments.yml, line 1: fast.variants.erm takes no metod; did you mean method?
    """
    try:
        root = yaml.compose(text, yaml.SafeLoader)
        content = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ValueError(f"{name}, line {line}: the file must be YAML, {error.problem}") from None
    if doubled := _doubled_key(root):
        raise ValueError(f"{name}, line {doubled.start_mark.line + 1}: {doubled.value} must stand once, got it again")
    found = Validator(schema()).iter_errors(content)

    def place(error: jsonschema.ValidationError) -> tuple[int, int]:  # a line that grids share is the first one's
        return _line(root, error.absolute_path), next((list(content).index(key) for key in error.absolute_path), 0)

    error = min(found, key=place, default=None)
    if error is not None:
        path, words = _describe(error)
        raise ValueError(f"{name}, line {_line(root, path)}: {words}")
    return content


def _doubled_key(node: yaml.Node | None) -> yaml.Node | None:
    """Find a key that stands twice in one mapping, which YAML's loader takes without a word."""
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                return key
            seen.add(key.value)
    return next(filter(None, map(_doubled_key, _children(node))), None)


def _children(node: yaml.Node | None) -> Iterable[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [value for _, value in node.value]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _line(root: yaml.Node, path: Iterable) -> int:
    """The line of what a path of keys and indices leads to, of its key where it has one."""
    node, line = root, root.start_mark.line
    for part in path:
        entry = _entry(node, part)
        if entry is None:
            break
        line, node = entry[0].start_mark.line, entry[1]
    return line + 1


def _entry(node: yaml.Node, part: str | int) -> tuple[yaml.Node, yaml.Node] | None:
    """The key and the value of a part of a path, also where a merge key (`<<`) brings it."""
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int):
        return node.value[part], node.value[part]
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(part):
                return key, value
        merged = [value for key, value in node.value if key.tag == "tag:yaml.org,2002:merge"]
        return next(filter(None, (_entry(value, part) for value in merged)), None)
    return None


def _describe(error: jsonschema.ValidationError) -> tuple[list, str]:
    """The path of a mistake, and what is wrong in the words of this book's errors."""
    path = list(error.absolute_path)
    where = ".".join(map(str, path)) or "the file"
    if error.validator == "additionalProperties" and error.schema.get("properties"):
        known = list(error.schema["properties"])
        wrong = next(key for key in error.instance if key not in known)
        return [*path, wrong], f"{where} takes no {wrong}{nearest(wrong, known)}"
    if error.validator == "enum":
        choices = error.validator_value
        words = f"{where} must be one of {', '.join(choices)}, got {error.instance!r}"
        return path, words + nearest(error.instance, choices)
    if error.validator == "required":
        missing = next(key for key in error.validator_value if key not in error.instance)
        return path, f"{where} must have {missing}"
    if error.validator == "type":
        kinds = error.validator_value if isinstance(error.validator_value, list) else [error.validator_value]
        return path, f"{where} must be of type {' or '.join(kinds)}, got {error.instance!r}"
    return path, f"{where} must fit the schema: {error.message}"
