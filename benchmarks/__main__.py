"""`python -m benchmarks [NAME ...]`: run some or all of the benchmarks."""

import importlib
import pkgutil
import sys

import benchmarks

names = sys.argv[1:] or [
    module.name for module in pkgutil.iter_modules(benchmarks.__path__) if module.name[0] != "_"
]
for name in names:
    importlib.import_module(f"benchmarks.{name}").main()
