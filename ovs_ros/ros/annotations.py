"""Instances as Foxglove draws them over an image: boxes with names. foxglove_msgs is optional."""

from collections.abc import Mapping, Sequence

from std_msgs.msg import Header

try:
    from foxglove_msgs.msg import Color, ImageAnnotations, Point2, PointsAnnotation, TextAnnotation
except ImportError:
    ImageAnnotations = None

from ovs_ros.steps.components import Component
from ovs_ros.vocabulary import colors

AVAILABLE = ImageAnnotations is not None
KIND = ImageAnnotations
_FONT = 16.0
_THICKNESS = 2.0


def annotated(
    header: Header, found: Sequence[Component], by_name: Mapping[str, colors.Color]
) -> "ImageAnnotations":
    """A box, a name and its confidence for each instance.

    Args:
        header: of the image.
        found: the instances.
        by_name: the names' colours.
    """
    boxes, texts = [], []
    for one in found:
        x, y, width, height = one.box
        red, green, blue = (value / 255 for value in by_name[one.name])
        color = Color(r=red, g=green, b=blue, a=1.0)
        corners = ((x, y), (x + width, y), (x + width, y + height), (x, y + height))
        boxes.append(
            PointsAnnotation(
                timestamp=header.stamp,
                type=PointsAnnotation.LINE_LOOP,
                points=[Point2(x=float(right), y=float(down)) for right, down in corners],
                outline_color=color,
                thickness=_THICKNESS,
            )
        )
        texts.append(
            TextAnnotation(
                timestamp=header.stamp,
                position=Point2(x=float(x), y=y + _FONT),
                text=f"{one.name} {one.score:.0%}",
                font_size=_FONT,
                text_color=Color(r=1.0, g=1.0, b=1.0, a=1.0),
                background_color=Color(r=red / 2, g=green / 2, b=blue / 2, a=0.7),
            )
        )
    return ImageAnnotations(points=boxes, texts=texts)
