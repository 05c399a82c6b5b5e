"""Every call of mmlib has its tensors' shapes checked (jaxtyping with beartype) while the tests run."""

from jaxtyping import install_import_hook

install_import_hook("mmlib", "beartype.beartype")
