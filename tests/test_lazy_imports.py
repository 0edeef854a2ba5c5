from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

PACKAGES = ["", ".data", ".evaluation", ".evaluation.students", ".planning", ".priors", ".report", ".sweeps"]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_of_a_lazy_package_is_found(package):
    module = importlib.import_module("ddoq_plugin" + package)
    assert all(getattr(module, name) is not None for name in module.__all__)
    assert set(module.__all__) <= set(dir(module))
    with pytest.raises(AttributeError, match=f"module '{module.__name__}' has no attribute 'nothing'"):
        module.nothing  # noqa: B018


def test_importing_the_packages_loads_nothing_heavy():
    code = "import sys\n" + "".join(f"import ddoq_plugin{package}\n" for package in PACKAGES)
    code += "print([name for name in ('torch', 'ray', 'diffusers', 'pandas') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
