"""Batch normalisation for training from scratch; saving folds it into the convolutions.

VGGish has no normalisation: with nine layers, it learns slowly from little data. In evaluation mode
a normalisation is a scale and an offset per channel, which fit into a convolution.
"""

import copy

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vggish_hf.modeling import VGGishModel

_CONVOLUTIONS = ("conv1", "conv2", "conv3_1", "conv3_2", "conv4_1", "conv4_2")


def add_batch_norm(model: VGGishModel) -> None:
    """Put a batch normalisation between each convolution and its ReLU, in place.

    Args:
        model: The network; the names of its convolutions' tensors change.

    Example:
        >>> from vggish_hf import VGGishConfig
        >>> model = VGGishModel(VGGishConfig(conv_channels=(4, 4, 8, 8, 8, 8), hidden_size=16))
        >>> add_batch_norm(model)
        >>> type(model.conv2[1]), model.conv2[1].num_features
        (<class 'torch.nn.modules.batchnorm.BatchNorm2d'>, 4)
        >>> fold_batch_norm(model).conv2
        Conv2d(4, 4, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
    """
    for name in _CONVOLUTIONS:
        convolution = getattr(model, name)
        norm = nn.BatchNorm2d(convolution.out_channels).to(convolution.weight)
        setattr(model, name, nn.Sequential(convolution, norm))


def fold_batch_norm(model: VGGishModel) -> VGGishModel:
    """Make a plain network with the same output as this one in evaluation mode.

    Args:
        model: A model changed by `add_batch_norm`; it stays as it is.

    Returns:
        A copy, in evaluation mode.
    """
    folded = copy.deepcopy(model).eval()
    for name in _CONVOLUTIONS:
        convolution, norm = getattr(folded, name)
        setattr(folded, name, fuse_conv_bn_eval(convolution, norm))
    return folded
