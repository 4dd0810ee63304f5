"""Several students of one kind in the same steps: the folds' and the final one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap


class Group:
    """Several students of one kind run as one: batched by vmap where they have no buffers, else one after another.

    Attributes:
        parameters: what an optimiser changes.
    """

    def __init__(self, students: Sequence[nn.Module]) -> None:
        self._students = students
        for student in students:
            student.train()
        self._stacked: dict[str, Tensor] | None = None
        # Batch statistics are written in place, which vmap cannot do.
        if any(True for _ in students[0].buffers()):
            self.parameters = [parameter for student in students for parameter in student.parameters()]
            return
        stacked = {name: value.detach().clone() for name, value in stack_module_state(list(students))[0].items()}
        self.parameters = [value.requires_grad_() for value in stacked.values()]
        self._stacked = stacked
        first = students[0]

        def answer(parameters: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
            result: tuple[Tensor, Tensor] = functional_call(first, parameters, (x,))
            return result

        self._answer = vmap(answer, randomness="different")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs [M, B, *shape] to logits [M, B, C] and embeddings [M, B, E]."""
        if self._stacked is None:
            logits, embeddings = zip(*(student(x[i])[:2] for i, student in enumerate(self._students)), strict=True)
            return torch.stack(logits), torch.stack(embeddings)
        result: tuple[Tensor, Tensor] = self._answer(self._stacked, x)
        return result

    def states(self) -> list[dict[str, Tensor]]:
        """Each student's values, copied."""
        self._write_back()
        return [{k: v.detach().clone() for k, v in student.state_dict().items()} for student in self._students]

    def load(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Give each student values that `states` gave."""
        for i, (student, state) in enumerate(zip(self._students, states, strict=True)):
            student.load_state_dict(state)
            if self._stacked is not None:
                with torch.no_grad():
                    for name, value in self._stacked.items():
                        value[i].copy_(state[name])

    def release(self) -> None:
        """Write the trained values back into the students and put them into evaluation mode."""
        self._write_back()
        for student in self._students:
            student.eval()

    def _write_back(self) -> None:
        if self._stacked is None:
            return
        for i, student in enumerate(self._students):
            student.load_state_dict({name: value[i].detach() for name, value in self._stacked.items()})
