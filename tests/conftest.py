import re
from dataclasses import is_dataclass

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded():
    """A network that a test builds is the same in whatever order the tests run."""
    torch.manual_seed(0)


def pytest_make_parametrize_id(val):
    """A value says what it is, but not where in memory: all workers must find the same tests."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(val)) if is_dataclass(val) else None
