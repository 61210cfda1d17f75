"""How the questions about brain slices are worded, as templates. `{view}` says plane and side where they matter."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_BOX = " Answer as [left, top, right, bottom] in thousandths of the picture's width and height."

WORDINGS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "plane": (
            "In which plane is this MRI slice: axial, coronal or sagittal?",
            "Which anatomical plane does this brain slice show?",
            "Is this slice axial, coronal or sagittal?",
            "What is the orientation of this MRI slice?",
            "Name the plane of this slice.",
            "Along which plane was this brain image cut?",
        ),
        "region": (
            "{view}Which brain region is {mark}?",
            "{view}Name the brain region {mark}.",
            "{view}What is the brain region {mark} called?",
            "{view}According to the AAL atlas, which region is {mark}?",
            "{view}Which structure is {mark}?",
            "{view}Tell me the region that is {mark}.",
        ),
        "region_side": (
            "{view}Which brain region is {mark}? Say left or right, too.",
            "{view}Name the brain region {mark} with its side of the patient.",
            "{view}According to the AAL atlas, which region is {mark}, and on which side of the patient?",
            "{view}Which structure is {mark}? Put left or right in front.",
            "{view}What is {mark}? Give the side and the region.",
            "{view}Tell me the side and the name of the region that is {mark}.",
        ),
        "visible": (
            "Is the {region} visible in this slice?",
            "Does this slice cut through the {region}?",
            "Can the {region} be seen here?",
            "Is any part of the {region} in this slice?",
            "Does the {region} appear in this picture?",
            "Would you find the {region} in this slice?",
        ),
        "larger": (
            "Which takes up more of this slice, the {a} or the {b}?",
            "Which has the larger area in this slice: the {a} or the {b}?",
            "Is the {a} or the {b} larger in this slice?",
            "In this slice, which is larger, the {a} or the {b}?",
            "Compare the {a} and the {b}: which covers more area here?",
            "Of the {a} and the {b}, which one is larger in this picture?",
        ),
        "box": tuple(
            text + _BOX
            for text in (
                "{view}Where is the {region}?",
                "{view}Give the bounding box of the {region}.",
                "{view}Locate the {region}.",
                "{view}In which box does the {region} lie?",
                "{view}What is the box of the {region}?",
                "{view}Find the {region}.",
            )
        ),
        "tissue": (
            "Is there grey or white matter {mark}?",
            "Which tissue is {mark}, grey matter or white matter?",
            "What kind of matter is {mark}: grey or white?",
            "Name the tissue {mark}: grey matter or white matter.",
            "The place {mark}: is it grey matter or white matter?",
            "Grey or white matter: which one is {mark}?",
        ),
        "axial_level": (
            "Is this slice from the lower, middle or upper third of the brain?",
            "At which height was this axial slice taken: lower, middle or upper third of the brain?",
            "Lower, middle or upper third of the brain: where does this slice lie?",
            "From which third of the brain is this slice, lower, middle or upper?",
            "In which third, counted from the bottom to the top of the brain, is this slice: lower, middle or upper?",
            "Tell me if this axial slice lies in the lower, middle or upper third of the brain.",
        ),
        "coronal_level": (
            "Is this slice from the back, middle or front third of the brain?",
            "Where was this coronal slice taken: back, middle or front third of the brain?",
            "Back, middle or front third of the brain: where does this slice lie?",
            "From which third of the brain is this slice, back, middle or front?",
            "In which third, counted from the back to the front of the brain, is this slice: back, middle or front?",
            "Tell me if this coronal slice lies in the back, middle or front third of the brain.",
        ),
        "sagittal_level": (
            "Is this sagittal slice near the midline or far out to the side?",
            "Does this slice run near the midline of the brain, or far out to the side?",
            "Near the midline or far out to the side: where was this sagittal slice taken?",
            "Where does this sagittal slice lie, near the midline or far out to the side?",
            "Tell me whether this slice is near the midline or far out to the side.",
            "Was this brain cut near the midline or far out to the side?",
        ),
        "hemisphere": (
            "{view}In which of the patient's hemispheres is the place {mark}, left or right?",
            "{view}Is the place {mark} on the patient's left or right side?",
            "{view}On which side of the patient is the place {mark}?",
            "{view}Left or right half of the patient's brain: where is the place {mark}?",
            "{view}Which side of the patient's brain is marked {mark}, left or right?",
            "{view}Name the patient's side of the place {mark}: left or right.",
        ),
        "facing": (
            "To which side of the picture does the face point, left or right?",
            "Is the front of the head on the left or on the right of the picture?",
            "Which way does the head look, to the left or to the right?",
            "On which side of the picture is the front of the brain?",
            "Left or right: where in the picture is the frontal lobe?",
            "Does the nose point to the left or to the right of the picture?",
        ),
    }
)
