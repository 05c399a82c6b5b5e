"""Every call of mmlib has its tensors' shapes checked (jaxtyping with beartype) while the tests run."""

from jaxtyping import install_import_hook

import tests.typechecker  # noqa: F401  the hook looks the name up and imports only its first part

install_import_hook("mmlib", "tests.typechecker.typechecker")
