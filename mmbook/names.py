"""Printed names of the variants, each with a colour and a marker of its own: the same in every chapter.

Forms of MultiMix have bright colours, the methods that they are compared with muted ones. Markers tell all of them
apart without colour.
"""

from collections.abc import Iterable
from typing import NamedTuple


class Style(NamedTuple):
    """The printed name of a variant, its colour and its marker."""

    name: str
    colour: str
    marker: str


STYLES = {
    "erm": Style("ERM", "#3b3b3b", "X"),
    "mixup": Style("mixup", "#7570b3", "^"),
    "cutmix": Style("CutMix", "#a6761d", "v"),
    "manifold_mixup": Style("Manifold mixup", "#8c8c8c", "<"),
    "alignmixup": Style("AlignMixup", "#c994c7", ">"),
    "puzzlemix": Style("Puzzle Mix", "#b3b36b", "p"),
    "comixup": Style("Co-Mixup", "#6b8e9e", "h"),
    "zeta_mixup": Style("ζ-mixup", "#c7a17a", "8"),
    "multimix": Style("MultiMix", "#1f77b4", "o"),
    "multimix-total": Style("MultiMix (total α)", "#17becf", "s"),
    "dense_multimix": Style("Dense MultiMix", "#d62728", "P"),
    "dense_multimix-total": Style("Dense MultiMix (total α)", "#ff7f0e", "D"),
    "multimix_distill": Style("MultiMix with distillation", "#1b9e77", "d"),
    "dense_multimix_distill": Style("Dense MultiMix with distillation", "#e7298a", "*"),
}
FORMS = tuple(variant for variant in STYLES if "multimix" in variant)  # forms of MultiMix; the rest are other methods


def known_method(variant: str) -> str | None:
    """Return the variant of `STYLES` that a variant is, or that it overrides; None for any other variant.

    >>> known_method("multimix-total-lr0.3"), known_method("n-10")
    ('multimix-total', None)
    """
    known = [name for name in STYLES if variant == name or variant.startswith(f"{name}-")]
    return max(known, key=len, default=None)


def style_of(variant: str) -> Style:
    """Return the style of a variant; its overrides stand behind the name, and an unknown variant is grey.

    >>> style_of("multimix").name, style_of("multimix-lr0.3").name, style_of("n-10").name
    ('MultiMix', 'MultiMix (lr0.3)', 'n-10')
    """
    method = known_method(variant)
    if method is None:
        return Style(variant, "#999999", "o")
    found, overrides = STYLES[method], variant[len(method) + 1 :]
    return found._replace(name=f"{found.name} ({overrides})") if overrides else found


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
