"""Readable names of the regions of the AAL atlas (Tzourio-Mazoyer et al. 2002), and of its file's short ones.

Sides are dropped here: the atlas says `_L` and `_R` at the end of a short name, the cerebellar vermis has none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

_READABLE = """
Precentral=precentral gyrus|Frontal_Sup=superior frontal gyrus|Frontal_Sup_Orb=orbital superior frontal gyrus
Frontal_Mid=middle frontal gyrus|Frontal_Mid_Orb=orbital middle frontal gyrus
Frontal_Inf_Oper=opercular inferior frontal gyrus|Frontal_Inf_Tri=triangular inferior frontal gyrus
Frontal_Inf_Orb=orbital inferior frontal gyrus|Rolandic_Oper=Rolandic operculum
Supp_Motor_Area=supplementary motor area|Olfactory=olfactory cortex|Frontal_Sup_Medial=medial superior frontal gyrus
Frontal_Med_Orb=medial orbital frontal gyrus|Rectus=gyrus rectus|Insula=insula
Cingulum_Ant=anterior cingulate gyrus|Cingulum_Mid=middle cingulate gyrus|Cingulum_Post=posterior cingulate gyrus
Hippocampus=hippocampus|ParaHippocampal=parahippocampal gyrus|Amygdala=amygdala|Calcarine=calcarine cortex
Cuneus=cuneus|Lingual=lingual gyrus|Occipital_Sup=superior occipital gyrus|Occipital_Mid=middle occipital gyrus
Occipital_Inf=inferior occipital gyrus|Fusiform=fusiform gyrus|Postcentral=postcentral gyrus
Parietal_Sup=superior parietal lobule|Parietal_Inf=inferior parietal lobule|SupraMarginal=supramarginal gyrus
Angular=angular gyrus|Precuneus=precuneus|Paracentral_Lobule=paracentral lobule|Caudate=caudate nucleus
Putamen=putamen|Pallidum=pallidum|Thalamus=thalamus|Heschl=Heschl's gyrus|Temporal_Sup=superior temporal gyrus
Temporal_Pole_Sup=superior temporal pole|Temporal_Mid=middle temporal gyrus|Temporal_Pole_Mid=middle temporal pole
Temporal_Inf=inferior temporal gyrus|Cerebelum_Crus1=cerebellar crus I|Cerebelum_Crus2=cerebellar crus II
Cerebelum_3=cerebellar lobule III|Cerebelum_4_5=cerebellar lobules IV and V|Cerebelum_6=cerebellar lobule VI
Cerebelum_7b=cerebellar lobule VIIb|Cerebelum_8=cerebellar lobule VIII|Cerebelum_9=cerebellar lobule IX
Cerebelum_10=cerebellar lobule X|Vermis_1_2=vermis lobules I and II|Vermis_3=vermis lobule III
Vermis_4_5=vermis lobules IV and V|Vermis_6=vermis lobule VI|Vermis_7=vermis lobule VII|Vermis_8=vermis lobule VIII
Vermis_9=vermis lobule IX|Vermis_10=vermis lobule X
"""
READABLE: Mapping[str, str] = MappingProxyType(
    {pair.split("=")[0]: pair.split("=")[1] for pair in re.split(r"[|\n]", _READABLE.strip())}
)


def parse_label_table(text: str) -> dict[int, tuple[str, str]]:
    """Label -> (readable name, side) of an atlas table with lines `number short-name ...`; side is left, right or "".

    A name that is not known is kept, with its underscores as spaces.
    """
    found = {}
    for line in text.splitlines():
        fields = line.split()
        if len(fields) < 2 or not fields[0].isdigit():
            continue
        short = re.sub(r"_[LR]$", "", fields[1])
        side = {"_L": "left", "_R": "right"}.get(fields[1][-2:], "")
        found[int(fields[0])] = (READABLE.get(short, short.replace("_", " ")), side)
    return found
