"""Whether a machine seems to have a GPU, told by its device files alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pgmeaning.cli.gpu import has_gpu

pytestmark = pytest.mark.skipif(sys.platform == "darwin", reason="every Mac with an M processor has a GPU")


@pytest.mark.parametrize("path", ["dev/nvidia0", "proc/driver/nvidia/gpus/0000:01:00.0", "dev/dxg", "dev/kfd"])
def test_a_gpu_is_known_by_its_drivers_files(tmp_path: Path, path: str) -> None:
    assert not has_gpu(tmp_path, {})
    (tmp_path / path).mkdir(parents=True)
    assert has_gpu(tmp_path, {})


def test_a_driver_without_a_device_is_no_gpu(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidiactl").touch()
    (tmp_path / "proc/driver/nvidia/gpus").mkdir(parents=True)
    assert not has_gpu(tmp_path, {})


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_a_gpu_that_is_hidden_from_cuda_does_not_count(tmp_path: Path, hidden: str) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidia0").touch()
    assert not has_gpu(tmp_path, {"CUDA_VISIBLE_DEVICES": hidden})
    assert has_gpu(tmp_path, {"CUDA_VISIBLE_DEVICES": "0"})


def test_looking_for_a_gpu_imports_no_inference_library() -> None:
    program = (
        "import sys; from pgmeaning.cli.gpu import has_gpu; has_gpu(); assert not {'torch', 'numpy'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
