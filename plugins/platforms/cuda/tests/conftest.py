"""Where kernels run in these tests: in Triton's interpreter where TRITON_INTERPRET=1 is set before Triton is imported,
else on a GPU, else not at all (`test_kernels_interpreted.py` then runs them in a process of their own)."""

from __future__ import annotations

from typing import Any

import pytest
import torch


def interpreting() -> bool:
    """Whether kernels are run by the interpreter in this process; mends it for numpy from 2.4 on."""
    triton = pytest.importorskip("triton")
    if not triton.knobs.runtime.interpret:
        return False
    from triton.runtime import interpreter

    if not getattr(interpreter, "takes_arrays_as_index", False):
        original = interpreter._patch_lang_tensor

        def patched(tensor: Any, scope: Any) -> None:
            original(tensor, scope)  # its int() of an array of one is an error in newer numpy
            scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

        interpreter._patch_lang_tensor = patched
        interpreter.takes_arrays_as_index = True
    return True


@pytest.fixture
def device() -> str:
    """The device type of the tensors that kernels are given."""
    if interpreting():
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    pytest.skip("no GPU, and TRITON_INTERPRET is not set")
