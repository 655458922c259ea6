"""The command itself: starting it, listing, and what it says without its dependencies."""

import subprocess
import sys

import pytest

from multirate.lab.optimizers import OPTIMIZERS
from multirate.lab.tasks import TASKS


@pytest.mark.parametrize("missing", ["click", "plotly"])
def test_without_the_lab_s_dependencies_the_cure_is_named(missing):
    code = f"import sys; sys.modules[{missing!r}] = None; from multirate.lab.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert f"needs the package '{missing}'" in done.stderr
    assert "pip install 'multirate[lab]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "multirate.lab", "--help"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "Usage: multirate" in done.stdout
    for command in ("bench", "compare", "list", "report"):
        assert command in done.stdout


def test_the_list_names_everything(invoke):
    done = invoke("list")
    assert done.exit_code == 0
    for name in (*TASKS, *OPTIMIZERS):
        assert name in done.output


def test_every_command_explains_its_options(invoke):
    for command in ("bench", "compare", "report", "list"):
        done = invoke(command, "--help")
        assert done.exit_code == 0
        assert "Usage:" in done.output
