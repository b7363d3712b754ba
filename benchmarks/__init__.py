"""Every measured figure of the documents: `make bench`, or `python -m benchmarks NAME`."""

import platform
from pathlib import Path
from types import ModuleType


def describe_machine(command: str, *modules: ModuleType) -> str:
    """Processor, Python, the modules' versions and the command, in two lines."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    processor = f"{len(model)} x {model[0]}" if model else platform.processor()
    versions = ", ".join(f"{module.__name__} {module.__version__}" for module in modules)
    return f"{processor}, Python {platform.python_version()}, {versions}\n$ {command}"
