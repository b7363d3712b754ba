"""Names of a package that are imported on first use."""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any


def lazy_names(
    package: str, modules: Mapping[str, str], *, needs: str | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make the `__getattr__` and `__dir__` of a package with lazy names (PEP 562).

    The package also imports each name under `TYPE_CHECKING`, for code tools, and lists all its
    exports in `__all__`. Its modules are attributes too, without an import.

    Args:
        package: The package's `__name__`.
        modules: The module, relative to the package, of each lazy name.
        needs: A package that the lazy names need; if it is not installed, `dir` and `help` skip
            them, and using one raises the ImportError of its module.
    """

    def find(name: str) -> Any:
        if name in modules:
            value = getattr(import_module(f"{package}.{modules[name]}"), name)
        elif not name.startswith("_") and find_spec(f"{package}.{name}") is not None:
            value = import_module(f"{package}.{name}")
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        vars(sys.modules[package])[name] = value
        return value

    def names() -> list[str]:
        face = vars(sys.modules[package])
        modules_here = {name for name, value in face.items() if isinstance(value, ModuleType)}
        public = {name for name in modules_here if not name.startswith("_")} | {*face["__all__"]}
        if needs is not None and find_spec(needs) is None:
            public -= modules.keys()
        return sorted(public | {name for name in face if name.startswith("__")})

    return find, names
