"""Models as a user would bring them: named as ``own_students:…`` on the command line."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from outrider_export.students import SMALL_PLAN, Architecture, image_input
from outrider_wire.task import Task


class MeanColour(nn.Module):
    """Knows nothing but an image's mean colour; logits are linear in it. Reads 8 × 8 pixels."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.head = nn.Linear(3, len(task.labels))

    def forward(self, image: Tensor) -> Tensor:
        """(n, labels)."""
        logits: Tensor = self.head(image.mean((2, 3)))
        return logits


def knowing(colours: Sequence[tuple[int, int, int]], task: Task) -> MeanColour:
    """One that answers with the nearest of these colours, a label each."""
    module, known = MeanColour(task), torch.tensor(colours) / 255
    with torch.no_grad():
        module.head.weight.copy_(24 * known)
        module.head.bias.copy_(-12 * (known**2).sum(1))
    return module.eval()


MEAN_COLOUR = Architecture(inputs=lambda task: [image_input(task.inputs[0], 8, 8)], build=MeanColour, plan=SMALL_PLAN)
