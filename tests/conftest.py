import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded():
    """A network that a test builds is the same in whatever order the tests run."""
    torch.manual_seed(0)
