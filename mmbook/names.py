"""Printed names of the variants, each with a colour and a marker of its own: the same in every chapter.

Forms of MultiMix have bright colours, the methods that they are compared with muted ones. The colours stay apart for
readers who do not see red or green, and stand out from the white ground of every figure. Markers tell all of them apart
without colour.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple


class Style(NamedTuple):
    """The printed name of a variant, its colour and its marker."""

    name: str
    colour: str
    marker: str


STYLES = {
    "erm": Style("ERM", "#131818", "X"),
    "mixup": Style("mixup", "#43296d", "^"),
    "cutmix": Style("CutMix", "#886c60", "v"),
    "manifold_mixup": Style("Manifold mixup", "#8b92a6", "<"),
    "alignmixup": Style("AlignMixup", "#6b3246", ">"),
    "puzzlemix": Style("Puzzle Mix", "#736421", "p"),
    "comixup": Style("Co-Mixup", "#256282", "h"),
    "zeta_mixup": Style("ζ-mixup", "#6e534f", "8"),
    "multimix": Style("MultiMix", "#1568c8", "o"),
    "multimix-total": Style("MultiMix (total α)", "#0c9af0", "s"),
    "dense_multimix": Style("Dense MultiMix", "#95021a", "P"),
    "dense_multimix-total": Style("Dense MultiMix (total α)", "#ed6800", "D"),
    "multimix_distill": Style("MultiMix with distillation", "#42a470", "d"),
    "dense_multimix_distill": Style("Dense MultiMix with distillation", "#b90782", "*"),
}
FORMS = tuple(variant for variant in STYLES if "multimix" in variant)  # forms of MultiMix; the rest are other methods

# Variants of the grids on options, and what stands behind a method's name, as they are printed.
OPTIONS = {
    "scratch": "from scratch",
    "one_alpha": "one α a mini-batch",
    "probability-0": "embeddings never mixed",
    "probability-1": "embeddings always mixed",
    "stage-0": "images mixed",
    "stage-1": "first stage mixed",
    "cam-relu": "CAM, ReLU",
    "cam-softmax": "CAM, softmax",
    "gap-softmax": "GAP, softmax",
    "uniform": "no attention",
    "learnt": "attention learnt",
    "schedule-steps": "learning rate in steps",
    "amplified": "own part amplified",
    "total": "total α",
    "annealed-up": "α rising",
    "annealed-down": "α falling",
    "around-0.5": "around one, w = 0.5",
    "around-0.5-1": "around one, w in (0.5, 1)",
}
# Of the methods compared with, behind whose name "embeddings" would be wrong.
OPTIONS_OF_OTHERS = {
    "probability-1": "on all mini-batches",
    "stages-1": "images or first stage",
    "clean-0": "no loss of the images' own",
    "gamma-0": "γ = 0",
    "beta-0": "β = 0",
    "xi-0": "ξ = 0",
}
PATTERNS = {
    r"n-?(\d+)": r"n = \1",
    r"m(\d+)": r"m = \1",
    r"epochs(\d+)": r"\1 epochs",
    r"lr(.+)": r"learning rate \1",
    r"alpha-(.+)": r"α = \1",
    r"total-(.+)": r"mα = \1",
    r"mixup_alpha-(.+)": r"input mixup's α = \1",
    r"tuple-(\d+)": r"\1 examples a mixture",
    r"(?:gamma-)?(\d\.\d+)": r"γ = \1",
    r"dense-gamma-(.+)": r"dense, γ = \1",
    r"at_mixture-(.+)": r"teacher at mixtures, γ = \1",
    r"decay-(.+)": r"decay \1",
    r"weight_decay-(.+)": r"weight decay \1",
}


def known_method(variant: str) -> str | None:
    """Return the variant of `STYLES` that a variant is, or that it overrides; None for any other variant.

    >>> known_method("multimix-total-lr0.3"), known_method("n-10")
    ('multimix-total', None)
    """
    known = [name for name in STYLES if variant == name or variant.startswith(f"{name}-")]
    return max(known, key=len, default=None)


def style_of(variant: str) -> Style:
    """Return the style of a variant; its overrides stand behind the name, and an unknown variant is grey.

    >>> style_of("multimix").name, style_of("multimix-m10").name, style_of("n-10").name
    ('MultiMix', 'MultiMix (m = 10)', 'n = 10')
    >>> style_of("cutmix-probability-1").name
    'CutMix (on all mini-batches)'
    """
    method = known_method(variant)
    if method is None:
        return Style(_option_name(variant), "#767676", "o")
    found, overrides = STYLES[method], variant[len(method) + 1 :]
    if not overrides:
        return found
    others = OPTIONS_OF_OTHERS if method not in FORMS else {}
    return found._replace(name=f"{found.name} ({others.get(overrides) or _option_name(overrides)})")


def _option_name(option: str) -> str:
    """Print an option of `OPTIONS` or `PATTERNS`, or one with another behind it; any other word as it is."""
    if option in OPTIONS:
        return OPTIONS[option]
    for pattern, printed in PATTERNS.items():
        if re.fullmatch(pattern, option):
            return re.sub(pattern, printed, option)
    first, dash, rest = option.rpartition("-")
    return f"{_option_name(first)}, {_option_name(rest)}" if dash and first in OPTIONS else option


def printed_name(variant: str) -> str:
    """Return the printed name of a variant.

    >>> printed_name("dense_multimix-total")
    'Dense MultiMix (total α)'
    """
    return style_of(variant).name


def in_order(variants: Iterable[str]) -> list[str]:
    """List variants once each, in the order of `STYLES`, unknown ones last in the order given.

    >>> in_order(["n-10", "multimix", "erm", "multimix"])
    ['erm', 'multimix', 'n-10']
    """
    order = [*STYLES, None]
    return sorted(dict.fromkeys(variants), key=lambda variant: order.index(known_method(variant)))
