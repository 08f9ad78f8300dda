"""Each framework's module works without the others, and names the extra to install if its own is missing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from qvec import MissingExtraError
from qvec.integrations.adapters import require_extra

FRAMEWORKS = {
    "langchain": ("langchain_core", "langchain-core", "langchain"),
    "llama_index": ("llama_index", "llama-index-core", "llama-index"),
    "haystack": ("haystack", "haystack-ai", "haystack"),
}
HIDE = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {hidden}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
"""


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", FRAMEWORKS)
def test_framework_works_without_others(name: str) -> None:
    module = FRAMEWORKS[name][0]
    pytest.importorskip(module)
    hidden = {other for other, _, _ in FRAMEWORKS.values()} - {module}
    done = run(HIDE.format(hidden=hidden) + f"import qvec.integrations.{name}")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_missing_framework_error_names_extra(name: str) -> None:
    module, package, extra_name = FRAMEWORKS[name]
    done = run(HIDE.format(hidden={module}) + f"import qvec.integrations.{name}")
    assert done.stderr.splitlines()[-1] == (
        f"qvec.errors.MissingExtraError: {package} is not installed; run: pip install 'qvec[{extra_name}]'"
    )


def test_unrelated_missing_module_is_not_reported_as_extra() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_module"), require_extra("x", "x", "x"):
        import no_such_module
    with pytest.raises(MissingExtraError), require_extra("x", "no_such_module", "x"):
        import no_such_module.inner  # noqa: F401
