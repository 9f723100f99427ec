"""torchvision's operators on regions and on places that the network itself chooses."""

from neumeta_cli.trace.factors import mixed, reduce, view
from neumeta_cli.trace.labels import Labels
from neumeta_cli.trace.rules.products import grouped_product
from neumeta_cli.trace.rules.table import Call, RefusedError, rule


@rule("roi_align roi_pool")
def regions(call: Call) -> list[Labels]:
    """(N, C, H, W) and boxes to (boxes, C, h, w): places are read where the boxes say."""
    call.atoms.fix_all(call.given("rois"))
    return [
        mixed(call.atoms, call.x, [0, 2, 3], [out.shape[d] for d in (0, 2, 3)]) for out in call.outs
    ]


@rule("ps_roi_align ps_roi_pool")
def parted_regions(call: Call) -> list[Labels]:
    """The same of (N, C · h · w, H, W): each place of the output has channels of its own."""
    atoms, (boxes, channels, h, w) = call.atoms, call.shape
    atoms.fix_all(call.given("rois"))
    batch, _, *space = call.first.shape
    x = view(atoms, call.x, [batch, channels, h * w, *space])
    x = reduce(atoms, atoms.pin(x, [2]), [2], keep=False)
    made = mixed(atoms, x, [0, 2, 3], [boxes, h, w])
    return [made] * len(call.outs)


@rule("deform_conv2d")
def deformable(call: Call) -> list[Labels]:
    """A convolution that reads each place where offsets say; these are no channels."""
    for name in ("offset", "mask"):
        call.atoms.fix_all(call.given(name))
    if call.arg("offset_groups") > 1:
        raise RefusedError("several groups of offsets, each for channels of its own")
    return grouped_product(call, call.arg("groups"), "goi", local=False)
