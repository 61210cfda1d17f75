"""What each furniture model is called: the catalogue's name in everyday words, and which names mean the same thing.

Leaves out people, road markings, wall plugs and models that are parts or whole rooms.
"""

from __future__ import annotations

import re

from nvila.data.corpus.listing import listed

DROPPED = re.compile(
    r"\bplug\b|switch|socket|RJ45|male\b|\bgirl\b|\bboy\b|^(girl|boy|tool|barnum|flipper|flacon|relax|short|suit|island"
    r"|screen|parking slot|pedestrian crossing|rails|rail crossing|concrete sidewalk|card game|children game"
    r"|fluorescent.*"
    r"|contemporary living room|frame chambord|island extension|entry .*|gaz water heater|wood bank|little bank"
    r"|locked locker|technical table|mp3 base|mp3 station|penbox|track lights|smoke detector|comb|ring|bootie|mocassin"
    r"|steak|sugar|butter|oil servers|square.*|rounded.*|pottery|cosmetics pot|folded clothes|hanging clothes"
    r"|puff|chimney|motorbike"
    r"|round chimney|class seat|clear sofa|furnace|box|cone|bill .*|intercom.*|arrow .*|door|shutter)$",
    re.IGNORECASE,
)
RENAMED = {
    "abdominal bench": "exercise bench",
    "acacia": "acacia tree",
    "air conditioning - external unit": "air conditioner",
    "air conditioning - internal unit": "air conditioner",
    "apple ibook": "laptop",
    "apple imac 1998": "computer",
    "apple imac 2004": "computer",
    "apple iphone": "mobile phone",
    "armchair ottoman": "ottoman",
    "baby bed": "crib",
    "baby high chair": "high chair",
    "basin": "washbasin",
    "bath": "bathtub",
    "bended coconut tree": "coconut tree",
    "bike": "bicycle",
    "black table": "table",
    "blue pine under snow": "pine tree",
    "bullet trash can": "trash can",
    "burlap sofa": "sofa",
    "cctv": "security camera",
    "chevrolet": "car",
    "children chair": "child chair",
    "children table": "child table",
    "christmas tree": "Christmas tree",
    "clothes washing machine": "washing machine",
    "coffee brewer": "coffee machine",
    "coffee maker": "coffee machine",
    "concept sedan 01": "car",
    "concept sedan 02": "car",
    "concept sedan 02 sport": "car",
    "convertible sofa bz": "sofa",
    "copper beech": "beech tree",
    "couch": "sofa",
    "cup cake": "cupcake",
    "cypress": "cypress tree",
    "decorative plant": "plant",
    "desk table": "desk",
    "double vanity": "vanity",
    "double-hung window": "window",
    "dustbin": "trash can",
    "electronic scale": "scale",
    "extinguisher": "fire extinguisher",
    "ficus": "plant",
    "ford focus": "car",
    "fork lift": "forklift",
    "fridge": "refrigerator",
    "garden hut": "garden shed",
    "hashtray": "ashtray",
    "high cabinet": "cabinet",
    "high hedge": "hedge",
    "hood": "range hood",
    "indoor bike": "exercise bike",
    "indoor plant": "plant",
    "inkjet printer and scanner": "printer",
    "iron bed": "bed",
    "island bath": "bathtub",
    "japanese maple": "maple tree",
    "large fridge": "refrigerator",
    "large pan": "pan",
    "large stove": "stove",
    "letters box": "mailbox",
    "lip stick": "lipstick",
    "little lamp": "lamp",
    "little plant": "plant",
    "lower cabinet": "cabinet",
    "lower corner cabinet": "cabinet",
    "mini stereo": "stereo",
    "modern armchair": "armchair",
    "mower": "lawn mower",
    "number lock": "lock",
    "oak chair": "chair",
    "oak table": "wooden table",
    "opened convertible sofa bz": "sofa bed",
    "osaka chair": "chair",
    "oval plate": "plate",
    "painted bench": "bench",
    "park light": "street lamp",
    "park trashcan": "trash can",
    "peugeot 308 cc": "car",
    "phone": "telephone",
    "pine": "pine tree",
    "pine under snow": "pine tree",
    "playstation": "game console",
    "pool lounge": "deck chair",
    "poplar": "poplar tree",
    "punching ball": "punching bag",
    "rectangle swimming pool": "swimming pool",
    "reflex camera": "camera",
    "relax chair": "chair",
    "renault scenic": "car",
    "residential trashcan": "trash can",
    "rigged fan": "fan",
    "round swimming pool": "swimming pool",
    "ryokan chair": "chair",
    "seat leon": "car",
    "siamese cat": "cat",
    "sliding window": "window",
    "small lavatory": "washbasin",
    "small lower cabinet": "cabinet",
    "small oven": "oven",
    "small step ladder": "step ladder",
    "small upper cabinet": "cabinet",
    "smart car": "car",
    "sofa 2 seats": "sofa",
    "sofa 3 seats": "sofa",
    "spathiphyllum": "plant",
    "stone grill device": "grill",
    "street light": "street lamp",
    "surveillance camera": "security camera",
    "suv": "car",
    "sycamore maple": "maple tree",
    "table tennis": "table tennis table",
    "table tennis bat": "table tennis paddle",
    "teck chair": "chair",
    "toilets unit": "toilet",
    "trunck": "chest",
    "turn window": "window",
    "tv": "television",
    "tv 16:9": "television",
    "tv remote control": "remote control",
    "upper cabinet": "cabinet",
    "upper corner cabinet": "cabinet",
    "upper shelves cabinet": "cabinet",
    "vw new beetle": "car",
    "wall flat tv": "television",
    "wall lamp artwork": "wall lamp",
    "winchester armchair": "armchair",
    "winchester sofa": "sofa",
    "wire coathanger": "clothes hanger",
    "wireless phone": "telephone",
    "woman shoes": "shoes",
    "wood toy": "toy",
    "wooden alder table": "wooden table",
    "wooden teak table": "wooden table",
    "yamaha yzr r6": "motorbike",
    "yucca": "plant",
}
HEADS = frozenset(
    listed(
        "chair|armchair|sofa|stool|bench|desk|lamp|vase|bottle|car|truck|bus|tree|plant|umbrella|refrigerator|"
        "toilet|washbasin|bathtub|wardrobe|bookcase|radiator|camera|bicycle|motorbike|piano|cabinet|hedge"
    )
)
"""Last words that are a good name for every model that ends in them."""

SAME_THING = (
    "chair armchair stool seat ottoman bench sofa lounge wheelchair",
    "table desk workbench",
    "plant tree ficus yucca cactus bonsai bush bamboo flowers tulips orchids lily spathiphyllum hedge acacia blossom",
    "cabinet wardrobe cupboard bookcase shelves dresser drawers locker sideboard chest vanity island closet",
    "bed crib mezzanine futon cot mattress tatami",
    "washbasin sink lavatory",
    "bathtub jacuzzi pool",
    "lamp light lantern lamppost spotlight chandelier",
    "car van truck bus suv taxi forklift",
    "bicycle motorbike scooter tricycle bike",
    "bottle flask jar milk",
    "glass cup mug bowl pot vase creamer",
    "oven stove cooker cooktop microwave fireplace grill",
    "refrigerator freezer",
    "computer laptop television screen tablet monitor",
    "telephone phone intercom",
    "door window curtain blind",
    "box crate chest container suitcase briefcase",
    "can trashcan bin basket barrel",
    "fence railing column",
    "toilet bidet urinal potty",
    "washer machine dryer",
    "cat dog bulldog",
    "knife fork spoon cutlery",
    "shoes sneakers slippers",
    "hat cap helmet",
    "carpet rug bathmat doormat",
    "saw hammer screwdriver pliers drill grinder shovel broom brush",
    "speaker stereo radio player amplifier",
    "mannequin doll toy",
    "pencil marker pen ruler lipstick",
)
"""Last words that may be taken for each other: never in one scene, and on one side of the split."""

ROOMS = {"Bathroom": "bathroom", "Kitchen": "kitchen", "Vehicles": "street"}
"""The catalogue's categories that can be asked for as a place where the thing is at home."""
OTHER_ROOMS = ("bedroom", "office", "garden", "classroom")


UNPLACED = frozenset(
    listed(
        "radiator|lipstick|bottle|brush|ashtray|broom|boiler|cabinet|drawers cabinet|dryer machine|washing machine"
        "|stool"
        "|high chair|old jar|scale|shopping basket|shovel|towel|trash can|tray|bar chair|medicine bottle|medicine box"
        "|baby bottle|birthday cake|soap|sponge|glass door cabinet|clothes basket|sink|sink cabinet|mixer|stroller"
    )
)
"""Names that are at home in more than one place."""


def name_of(catalogue_name: str) -> str | None:
    """The everyday name, or None for a model that is left out."""
    if DROPPED.search(catalogue_name):
        return None
    low = catalogue_name.strip().lower()
    name = RENAMED.get(low, low)
    return name if re.fullmatch(r"[A-Za-z' -]+", name) and len(name.split()) <= 4 else None


def spoken(name: str) -> str:
    """The name to use in a scene: the last word where that is good enough ("bar chair": "chair")."""
    front = _front(name)
    last = front.split()[-1]
    return last if last in HEADS else front


def concept_of(name: str) -> str:
    """The unit of a name: the first of the last words that may be taken for each other, or its own last word."""
    last = _front(name).split()[-1]
    for group in SAME_THING:
        words = group.split()
        if last in words:
            return words[0]
    return last


def _front(name: str) -> str:
    """The name without what it has on it: "bowl with fruits" is a bowl."""
    return re.split(r" (?:with|on|and) ", name)[0]
