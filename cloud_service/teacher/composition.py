"""One teacher out of several models and several views: what is asked, in which order, and what the answer is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cloud_service.tasks.task import load_entry
from cloud_service.teacher.model import Array, Network, Outputs, mix, tempered
from cloud_service.teacher.settings import TeacherSettings

Views = Callable[[Array], Array]
"""Raw samples [N, *shape] to views [V, N, *shape] of the same dtype."""


@dataclass(frozen=True, slots=True)
class Member:
    """One model of a teacher.

    Attributes:
        views: what it looks at; None: the samples alone.
    """

    network: Network
    temperature: float = 1.0
    share: float = 1.0
    views: Views | None = None


def compose(members: Sequence[Member]) -> Network:
    """All members' answers as one; the embedding is that of the first member that gives one.

    A lone member without views answers with its own logits over its temperature; else see `mix`.
    """
    if len(members) == 1 and members[0].views is None:
        network, temperature = members[0].network, members[0].temperature
        return lambda samples: tempered(network(samples), temperature)

    def ask(samples: Array) -> Outputs:
        answers, shares, embedding = [], [], None
        for member in members:
            views = _views(member, samples)
            for view in views:
                given = tempered(member.network(view), member.temperature)
                answers.append(given.logits)
                shares.append(member.share / len(views))
                embedding = given.embedding if embedding is None else embedding
        logits, disagreement = mix(answers, shares)
        return Outputs(logits, embedding, disagreement)

    return ask


def load_views(teacher: TeacherSettings, *, task: str) -> Views | None:
    """What the settings name as `augmentations`.

    Raises:
        SettingsError: no such function.
    """
    if teacher.augmentations is None:
        return None
    return load_entry(teacher.augmentations, setting=f"tasks.{task}.teacher.augmentations")


def shared_temperature(teachers: Sequence[TeacherSettings]) -> float:
    """The temperature of all of them; 1 where they differ."""
    temperatures = {teacher.temperature for teacher in teachers}
    return temperatures.pop() if len(temperatures) == 1 else 1.0


def _views(member: Member, samples: Array) -> Array | list[Array]:
    if member.views is None:
        return [samples]
    views = member.views(samples)
    if views.shape[1:] != samples.shape or views.dtype != samples.dtype or not len(views):
        raise ValueError(
            f"augmentations gave {list(views.shape)} {views.dtype} for samples {list(samples.shape)} {samples.dtype}; "
            "they give [views, *the samples' shape] in the same dtype"
        )
    return views
