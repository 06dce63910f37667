"""The pretrained networks that can be built upon: what `keras.applications` has, and what each expects of a picture.

Left out: EfficientNet's first version, whose graph in Keras depends on where its weights come from (a scaling that only
`weights="imagenet"` adds), so that a file's weights would mean something else; and the NASNets, which need some thousand
layers for what smaller networks here do as well.
"""

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from services.errors import InvalidArgument

Preprocessing = Literal["caffe", "tf", "torch", "none"]
"""What is done to RGB bytes before the network, in the words of `keras.applications.imagenet_utils`: `caffe` BGR with the
mean colour taken off, `tf` -1..1, `torch` 0..1 standardised by colour, `none` nothing: the network does it itself."""


@dataclass(frozen=True)
class Backbone:
    """One network. `constructor` is its name in `keras.applications`.

    `smallest`: the least height and width it takes; `size`: those its ImageNet weights were trained or published for.
    """

    name: str
    constructor: str
    preprocessing: Preprocessing
    size: int = 224
    smallest: int = 32


BACKBONES = (
    Backbone("vgg16", "VGG16", "caffe"),
    Backbone("vgg19", "VGG19", "caffe"),
    Backbone("resnet50", "ResNet50", "caffe"),
    Backbone("resnet101", "ResNet101", "caffe"),
    Backbone("resnet152", "ResNet152", "caffe"),
    Backbone("resnet50v2", "ResNet50V2", "tf"),
    Backbone("resnet101v2", "ResNet101V2", "tf"),
    Backbone("resnet152v2", "ResNet152V2", "tf"),
    Backbone("inceptionv3", "InceptionV3", "tf", 299, 75),
    Backbone("inceptionresnetv2", "InceptionResNetV2", "tf", 299, 75),
    Backbone("xception", "Xception", "tf", 299, 71),
    Backbone("mobilenet", "MobileNet", "tf"),
    Backbone("mobilenetv2", "MobileNetV2", "tf"),
    Backbone("mobilenetv3-small", "MobileNetV3Small", "none"),
    Backbone("mobilenetv3-large", "MobileNetV3Large", "none"),
    Backbone("densenet121", "DenseNet121", "torch"),
    Backbone("densenet169", "DenseNet169", "torch"),
    Backbone("densenet201", "DenseNet201", "torch"),
    Backbone("efficientnetv2-b0", "EfficientNetV2B0", "none"),
    Backbone("efficientnetv2-b1", "EfficientNetV2B1", "none", 240),
    Backbone("efficientnetv2-b2", "EfficientNetV2B2", "none", 260),
    Backbone("efficientnetv2-b3", "EfficientNetV2B3", "none", 300),
    Backbone("efficientnetv2-s", "EfficientNetV2S", "none", 384),
    Backbone("efficientnetv2-m", "EfficientNetV2M", "none", 480),
    Backbone("efficientnetv2-l", "EfficientNetV2L", "none", 480),
    Backbone("convnext-tiny", "ConvNeXtTiny", "none"),
    Backbone("convnext-small", "ConvNeXtSmall", "none"),
    Backbone("convnext-base", "ConvNeXtBase", "none"),
    Backbone("convnext-large", "ConvNeXtLarge", "none"),
    Backbone("convnext-xlarge", "ConvNeXtXLarge", "none"),
)


def find_backbone(name: str) -> Backbone:
    """The backbone of that name, however its words are joined. Raises InvalidArgument listing the known ones."""
    known = {_plain(backbone.name): backbone for backbone in BACKBONES}
    if found := known.get(_plain(name)):
        return found
    close = get_close_matches(_plain(name), known, n=1)
    hint = f" Did you mean {known[close[0]].name}?" if close else ""
    names = ", ".join(backbone.name for backbone in BACKBONES)
    raise InvalidArgument(f"Option backbone: expected one of {names}. Received: {name!r}.{hint}")


def check_size(backbone: Backbone, **lengths: int | None) -> None:
    """Raise InvalidArgument for a height or width that the network cannot take; `None` is left to be chosen."""
    for name, pixels in lengths.items():
        if pixels is not None and pixels < backbone.smallest:
            raise InvalidArgument(
                f"Option {name}: expected at least {backbone.smallest} pixels for {backbone.name}. Received: {pixels}."
            )


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
