"""`python -m benchmarks [NAME ...]`: run some or all of the benchmarks.

Each runs in a process of its own, so that none inherits threads, memory or settings from another.
"""

import pkgutil
import subprocess
import sys

import benchmarks

known = [module.name for module in pkgutil.iter_modules(benchmarks.__path__)]
known = [name for name in known if not name.startswith("_")]
names = sys.argv[1:] or known
if unknown := [name for name in names if name not in known]:
    sys.exit(f"Expected benchmarks among {', '.join(known)}, got {', '.join(unknown)}")
failed = []
for name in names:
    print(f"\n== {name}", flush=True)
    command = [sys.executable, "-c", f"from benchmarks.{name} import main; main()"]
    if subprocess.run(command, check=False).returncode:
        failed.append(name)
if failed:
    sys.exit(f"failed: {', '.join(failed)}")
