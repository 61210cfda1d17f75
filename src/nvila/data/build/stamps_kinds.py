"""What kind of thing each stamp shows, and which names stay on one side of the split."""

from __future__ import annotations

KINDS: dict[str, str | None] = {
    "animals/amphibians": "animal",
    "animals/birds": "bird",
    "animals/dinosaur": "dinosaur",
    "animals/fish": "fish",
    "animals/fish/lobster": None,
    "animals/fish/shrimp": None,
    "animals/insects": "insect",
    "animals/insects/Brown_slug": None,
    "animals/insects/Woodlouse": None,
    "animals/insects/cartoon/snail": None,
    "animals/insects/cartoon/snail2": None,
    "animals/insects/cartoon/spider": None,
    "animals/insects/cartoon/spider2": None,
    "animals/lizards": "animal",
    "animals/mammals": "mammal",
    "animals/mammals/bears/cartoon/teddy_bear": "toy",
    "animals/mammals/bears/toys": "toy",
    "animals/marsupials": "mammal",
    "clothes": "piece of clothing",
    "clothes/armor": None,
    "clothes/button": None,
    "clothes/clotheshanger": None,
    "clothes/clothespin_new": None,
    "clothes/clothespin_old": None,
    "clothes/glasses1": None,
    "clothes/glasses2": None,
    "clothes/hats": "hat",
    "clothes/hats/crown1": None,
    "clothes/hats/crown2": None,
    "clothes/red_handbag": None,
    "clothes/sunglasses_01": None,
    "clothes/sunglasses_02": None,
    "food/dessert": "cake",
    "food/fruit": "fruit",
    "food/nuts": "nut",
    "food/vegetables": "vegetable",
    "food/vegetables/mushroom": None,
    "food/vegetables/corn": None,
    "hobbies/music": "musical instrument",
    "household/arttools": "writing or art tool",
    "household/electronics": "electronic device",
    "household/tools": "tool",
    "household/tools/cementmixer": None,
    "military/fireman240a": "person",
    "military/vehicles": "vehicle",
    "people/cartoon": "person",
    "people/cartoon/mermaid": None,
    "people/cartoon/scarecrow": None,
    "people/cartoon/snowman": None,
    "people/fireman200b": "person",
    "people/fireman240a": "person",
    "plants/flowers": "flower",
    "plants/trees": "tree",
    "plants/trees/pinecone": None,
    "plants/trees/holly_leaves": None,
    "plants/mushrooms": "mushroom",
    "seasonal/easter/bluebird": "bird",
    "seasonal/easter/daffodil": "flower",
    "seasonal/easter/butterfly": "insect",
    "space/planets": "planet",
    "space/planets/0_sun": None,
    "symbols/chess": "chess piece",
    "town/flags": "flag",
    "town/houses": "building",
    "town/houses/cartoon/cave_entrance": None,
    "town/houses/cartoon/circus": None,
    "town/houses/cartoon/medieval_tent": None,
    "town/houses/cartoon/tent": None,
    "town/houses/cartoon/tepee": None,
    "town/houses/cartoon/farm": None,
    "town/roadsigns": "road sign",
    "town/roadsigns/traffic_cone": None,
    "town/roadsigns/stoplight_01_red": None,
    "town/roadsigns/stoplight_02_yellow": None,
    "town/roadsigns/stoplight_03_green": None,
    "vehicles": "vehicle",
    "vehicles/7spoke256": None,
    "vehicles/bikewheel": None,
    "vehicles/wheel_tractor": None,
    "vehicles/tyre_with_rim": None,
    "vehicles/locomotive/cartoon/trainSign": None,
}
"""The longest prefix of a stamp's path wins; None: the kind is not asked for."""

SAME_THING = (
    "bunny rabbit",
    "rooster hen chicken chick",
    "peacock peahen",
    "drake duck",
    "dromedary camel",
    "doe deer caribou wapiti reindeer",
    "lamb sheep ram",
    "bull cow zebu yak bison",
    "rat mouse",
    "cat kitten",
    "lemon lime",
    "dog dingo",
    "pigeon gull seagull",
    "bin can",
    "airplane jet",
    "toadstool mushroom",
    "car sedan",
    "mandarin orange",
    "flower hibiscus daffodil iris marigold rose anthurium lavender petunia gazania",
    "shamrock clover",
    "fedora hat cap",
    "jeans pants",
    "monitor laptop",
    "phone telephone",
    "motorbike bike bicycle",
    "locomotive train",
    "gander goose",
    "pitcher kettle teapot",
    "mug cup",
    "house cottage home",
    "castle fortress fort tower watchtower",
    "boat ship tugboat submarine sailboat",
    "bottle cylinder",
    "ladybug beetle",
    "cep mushroom",
)
"""Last words that may stand for the same picture: they share a unit, and neither is offered as a wrong answer."""


def kind_of(path: str) -> str | None:
    """What sort of thing the stamp at `path` shows, in everyday words, or None when that is not asked for."""
    parts = path.split("/")
    for count in range(len(parts), 0, -1):
        prefix = "/".join(parts[:count])
        if prefix in KINDS:
            return KINDS[prefix]
    return None


def concept_of(name: str) -> str:
    """The unit a name belongs to: its last word, or the first of the words that may mean the same."""
    last = name.split()[-1].lower()
    for group in SAME_THING:
        words = group.split()
        if last in words:
            return words[0]
    return last
