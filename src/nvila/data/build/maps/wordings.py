"""How the questions about maps are worded, as templates. `{kind}`, `{kinds}`: what divisions are called there, such
as province; `{mark}`: how the asked one is marked, such as `in red`; `{a}`, `{b}`: names or numbers on the map.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_BOX = " Answer as [left, top, right, bottom] in thousandths of the picture's width and height."

WORDINGS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "name": (
            "Which {kind} is marked {mark}?",
            "What is the name of the {kind} that is marked {mark}?",
            "Name the {kind} marked {mark} on this map.",
            "One {kind} is marked {mark}. Which one is it?",
            "What {kind} of {title} is marked {mark}?",
            "This map of {title} has one {kind} marked {mark}. What is it called?",
            "Tell me the {kind} marked {mark}.",
        ),
        "capital": (
            "What is the capital of the {kind} marked {mark}?",
            "Name the capital of the marked {kind}.",
            "Which city is the capital of the {kind} that is marked {mark}?",
            "What is the capital of the {kind} shown {mark}?",
            "The {kind} marked {mark}: what is its capital?",
            "Give the capital of the {kind} marked {mark}.",
        ),
        "capital_of": (
            "What is the capital of {a}?",
            "Which city is the capital of {a}?",
            "Name the capital of {a}.",
            "{a} is labelled on the map. What is its capital?",
            "What is {a}'s capital?",
            "Give the capital of {a}.",
        ),
        "num_borders": (
            "How many {kinds} border the one marked {mark}?",
            "How many other {kinds} of the map touch the {kind} marked {mark}?",
            "Count the {kinds} that share a border with the {kind} marked {mark}.",
            "The {kind} marked {mark} has how many neighbouring {kinds} on this map?",
            "How many neighbours among the {kinds} does the {kind} marked {mark} have?",
            "With how many {kinds} does the {kind} marked {mark} share a border?",
        ),
        "title": (
            "Which country or region does this map show?",
            "What does this map show?",
            "Name the country or region on this map.",
            "Of what place is this a map?",
            "This is a map of what?",
            "What country or region is drawn here?",
        ),
        "water": (
            "Does the {kind} marked {mark} touch water on this map?",
            "Is there water at the border of the {kind} marked {mark}?",
            "Does the {kind} marked {mark} lie at a coast or a lake shore?",
            "Is the {kind} marked {mark} next to water?",
            "Does water touch the {kind} that is marked {mark}?",
            "On this map, does the {kind} marked {mark} reach any water?",
        ),
        "marked_box": tuple(
            text + _BOX
            for text in (
                "Where is the {kind} marked {mark}?",
                "Give the box of the {kind} marked {mark}.",
                "What is the bounding box of the {kind} marked {mark}?",
                "Locate the {kind} marked {mark}.",
                "Find the {kind} marked {mark}.",
                "In which box does the {kind} marked {mark} lie?",
            )
        ),
        "box": tuple(
            text + _BOX
            for text in (
                "Where is {a}?",
                "Give the box of {a}.",
                "What is the bounding box of {a}?",
                "Locate {a} on the map.",
                "Find {a}.",
                "In which box does {a} lie?",
            )
        ),
        "further": (
            "Which lies further {way}, {a} or {b}?",
            "Which is further {way}: {a} or {b}?",
            "Is {a} or {b} further {way}?",
            "Of {a} and {b}, which one lies further {way}?",
            "Compare {a} and {b}: which is further {way}?",
            "Which of the two is further {way}, {a} or {b}?",
        ),
        "furthest": (
            "Which of {those} lies furthest {way}?",
            "Of {those}, which is furthest {way}?",
            "Which one is furthest {way}: {those}?",
            "Name the one furthest {way} among {those}.",
            "Looking at {those}, which lies furthest {way}?",
            "Among {those}, which one is furthest {way}?",
        ),
        "larger": (
            "Which is larger on the map, {a} or {b}?",
            "Which covers more of the map: {a} or {b}?",
            "Is {a} or {b} larger on this map?",
            "Of {a} and {b}, which takes up more area here?",
            "Compare {a} and {b}: which one is drawn larger?",
            "Which of the two is larger, {a} or {b}?",
        ),
        "borders": (
            "Does {a} border {b}?",
            "Do {a} and {b} share a border?",
            "Are {a} and {b} neighbours?",
            "Is {a} next to {b}?",
            "Do {a} and {b} touch each other?",
            "Is there a common border of {a} and {b}?",
        ),
        "color_of": (
            "What colour is {a} on the map?",
            "In which colour is {a} drawn?",
            "Which colour does {a} have?",
            "What is the colour of {a}?",
            "{a} is shown in which colour?",
            "Tell me the colour of {a}.",
        ),
        "by_color": (
            "Which {kind} is drawn in {color}?",
            "What is the name of the {color} {kind}?",
            "By the legend, which {kind} is {color}?",
            "Name the {kind} that is coloured {color}.",
            "Which {kind} of the legend is {color}?",
            "What does {color} stand for in the legend?",
        ),
        "num_listed": (
            "How many {kinds} does the legend list?",
            "How many entries does the legend have?",
            "Count the {kinds} in the legend.",
            "How many {kinds} are named beside the map?",
            "What is the number of entries in the legend?",
            "How many names does the legend hold?",
        ),
        "by_number": (
            "Which {kind} has the number {a}?",
            "What is the {kind} with number {a} called?",
            "Name the {kind} marked {a}.",
            "Number {a} stands for which {kind}?",
            "What is the name of {kind} number {a}?",
            "Which {kind} does number {a} mark?",
        ),
        "number_of": (
            "Which number marks {a}?",
            "What number does {a} have on the map?",
            "Find the number of {a}.",
            "{a} is marked by which number?",
            "Which number stands on {a}?",
            "Tell me the number of {a}.",
        ),
    }
)
WAYS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {"west": (0, -1), "east": (0, 1), "north": (1, -1), "south": (1, 1)}
)
"""Axis (0 = x, 1 = y) and sign of each direction; y grows downwards and north is up."""

SINGULAR: Mapping[str, str] = MappingProxyType(
    {
        "Provinces": "province",
        "Countries": "country",
        "Districts": "district",
        "District": "district",
        "Prefectures": "prefecture",
        "Parishes": "parish",
        "Regions": "region",
        "States": "state",
        "Departments": "department",
        "Counties": "county",
        "Municipalities": "municipality",
        "Cantons": "canton",
        "Emirates": "emirate",
        "Zones": "zone",
        "Oblasts": "oblast",
        "Governorates": "governorate",
        "Continents": "continent",
        "Rayons": "rayon",
        "Autonomous communities": "autonomous community",
    }
)
PLURAL: Mapping[str, str] = MappingProxyType(
    {"country": "countries", "parish": "parishes", "county": "counties", "municipality": "municipalities"}
    | {"autonomous community": "autonomous communities"}
)
"""Plurals that are not the singular with an s."""

OTHER_TITLES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "USA": ("USA", "United States", "the United States", "United States of America"),
        "Republic of Korea": ("Republic of Korea", "South Korea"),
        "Democratic Republic of the Congo": ("Democratic Republic of the Congo", "DR Congo", "Congo"),
        "The Netherlands": ("The Netherlands", "Netherlands"),
        "Czechia": ("Czechia", "Czech Republic"),
        "Republic Of Ireland": ("Republic of Ireland", "Ireland"),
        "United Arab Emirates": ("United Arab Emirates", "UAE"),
        "Myanmar": ("Myanmar", "Burma"),
        "World": ("The world", "World"),
    }
)
