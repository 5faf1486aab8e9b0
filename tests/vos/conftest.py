"""What several tests of plain PyTorch code share."""

import pytest
import torch

from vos.models import VOSModel, build


@pytest.fixture(scope="module")
def model() -> VOSModel:
    """A small model with random weights, its classifier sharpened so that masks have edges and memory matters."""
    torch.manual_seed(0)
    model = build("mobilevos-tiny").eval()
    with torch.no_grad():
        model.decoder.pred.weight.mul_(5)
    return model
