"""Students from timm and torchvision, at any width; imported where they are asked for.

Where a library's own function takes no width, the family's generator is called with it; which one that is, is looked up
here and nowhere else.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from cloud_service.networks.own import in_blocks
from cloud_service.networks.settings import StudentSettings
from shared.errors import SettingsError

_INSTALL = "type: pip install 'edgeloop[zoo]'"


class Zoo(nn.Module):
    """A zoo's network without its classifier; grey pictures are given to it three times.

    Args:
        network: takes [N, 3, H, W], gives [N, E].
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.network(x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x)
        return found


def open_zoo(asked: StudentSettings, *, channels: int) -> tuple[nn.Module, int]:
    """The network without its classifier, and how many features it gives.

    Raises:
        SettingsError: the library is absent, has no such network, or does not take the width.
    """
    if channels not in {1, 3}:
        raise SettingsError(f"{asked.network} takes pictures of 1 or 3 channels, not {channels}: use edgeloop:resnet8")
    library, _, name = asked.network.partition(":")
    # An absent library and one that does not fit the installed torch (RuntimeError: no operator nms) have one remedy.
    try:
        network = _timm(name, asked.width) if library == "timm" else _torchvision(name, asked.width)
    except (ImportError, OSError) as err:
        raise SettingsError(f"{asked.network}: {library} cannot be imported ({err}); {_INSTALL}") from err
    except SettingsError:
        raise
    # Each library raises classes of its own for an unknown name or an argument that a network does not take.
    except Exception as err:
        raise SettingsError(f"{asked.network}, width {asked.width:g}: {library} does not make it: {err}") from err
    if not asked.keep_relu6:
        _to_relu(network)
    body = Zoo(network)
    return body, _features(body)


def _timm(name: str, width: float) -> nn.Module:
    import timm

    if width == 1.0:
        made: nn.Module = timm.create_model(name, pretrained=False, num_classes=0)
        return made
    from timm.models import efficientnet, ghostnet, mobilenetv3

    # Private, and the only way to another width.
    generators: dict[str, Any] = {
        "mobilenetv3": mobilenetv3._gen_mobilenet_v3,  # noqa: SLF001  # see above
        "mobilenetv4": mobilenetv3._gen_mobilenet_v4,  # noqa: SLF001  # see above
        "mobilenetv2": efficientnet._gen_mobilenet_v2,  # noqa: SLF001  # see above
        "efficientnet_lite": efficientnet._gen_efficientnet_lite,  # noqa: SLF001  # see above
    }
    if name.startswith("ghostnet"):
        make = ghostnet._create_ghostnet  # noqa: SLF001  # see above
        ghost: nn.Module = make(name, width=width, pretrained=False, num_classes=0)
        return ghost
    for family, generate in generators.items():
        if name.startswith(family):
            sized: nn.Module = generate(name, channel_multiplier=width, pretrained=False, num_classes=0)
            return sized
    raise SettingsError(f"timm:{name} comes at width 1 alone; other widths: {', '.join(generators)}, ghostnet")


def _torchvision(name: str, width: float) -> nn.Module:
    import torchvision.models as zoo

    if name.startswith("shufflenet_v2") and width != 1.0:
        sizes = [24, *(in_blocks(width * size) for size in (116, 232, 464)), 1024]
        network: Any = zoo.ShuffleNetV2([4, 8, 4], sizes)
    else:
        given = {} if width == 1.0 else {"width_mult": width}
        network = zoo.get_model(name, weights=None, **given)
    last = "fc" if hasattr(network, "fc") else "classifier"
    if not hasattr(network, last):
        raise SettingsError(f"torchvision:{name} has no classifier to take off: use another network")
    setattr(network, last, nn.Identity())
    made: nn.Module = network
    return made


def _to_relu(network: nn.Module) -> None:
    for name, layer in network.named_children():
        if isinstance(layer, nn.ReLU6):
            setattr(network, name, nn.ReLU())
        else:
            _to_relu(layer)


@torch.no_grad()
def _features(body: nn.Module) -> int:
    """By a picture of any size; the network is in training mode again afterwards."""
    found: torch.Tensor = body.eval()(torch.zeros(1, 3, 64, 64))
    body.train()
    return found.shape[-1]
