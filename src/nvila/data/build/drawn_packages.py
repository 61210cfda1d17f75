"""The packages of the family `drawn`, with the sizes of their downloads in megabytes."""

from __future__ import annotations

from nvila.data.build.family import Package
from nvila.data.corpus import sources
from nvila.data.corpus.listing import listed

FONT_LICENCE = "OFL, GPL with font exception, or another free licence of Debian main"
"""Each package's own is in `prepared.json` once it is fetched."""

_FONT_MEGABYTES = dict(
    pair.split("=")
    for pair in listed(
        "3270=0.2|adf-accanthis=0.2|adf-baskervald=0.1|adf-berenis=0.3|adf-gillius=0.2|adf-ikarius=0.1"
        "|adf-irianis=0.2|adf-libris=0.1|adf-mekanus=0.1|adf-romande=0.2|adf-switzera=0.3|adf-tribun=0.3"
        "|adf-universalis=0.1|adf-verana=0.2|agave=0.1|anonymous-pro=0.1|arapey=0.1|averia-sans-gwf=0.2"
        "|averia-serif-gwf=0.3|b612=0.3|beteckna=0.1|breip=0.1|cabin=0.1|cabinsketch=0.2|cantarell=0.3|cardo=0.5"
        "|clear-sans=0.4|cmu=4.9|comfortaa=0.1|comic-neue=0.4|compagnon=8.8|courier-prime=0.1|croscore=1.6"
        "|crosextra-caladea=0.1|crosextra-carlito=0.7|dancingscript=0.1|dejavu-core=1.1|dejavu-extra=2.0"
        "|dosis=0.2|dustin=0.4|ebgaramond=0.5|elstob=4.1|essays1743=0.4|eurofurence=0.4|fantasque-sans=1.4"
        "|fanwood=0.2|firacode=1.5|freefont-ttf=2.6|georgewilliams=0.6|gfs-artemisia=0.3|gfs-didot=0.3"
        "|gfs-neohellenic=0.2|go=0.4|goudybookletter=0.1|hack=1.6|hermit=0.1|inconsolata=0.1|inter=2.9"
        "|jetbrains-mono=0.5|junction=0.1|junicode=8.7|jura=0.2|karla=0.5|kaushanscript=0.1|klaudia-berenika=0.2"
        "|lato=2.7|league-mono=0.7|league-spartan=0.2|leckerli-one=0.1|liberation=0.8|lindenhill=0.1"
        "|linuxlibertine=1.7|lmodern=4.5|lobster=0.1|lobstertwo=0.1|manrope=0.2|millimetre=10.9|monofur=0.1"
        "|monoid=0.2|mononoki=0.4|motoya-l-cedar=1.1|noto-core=12.2|noto-mono=0.4|ocr-a=0.1|ocr-b=0.1|okolaks=0.2"
        "|oldstandard=0.4|open-sans=0.6|opendyslexic=0.4|osifont=0.1|oxygen=0.1|paratype=1.4|play=0.2"
        "|prociono=0.1|quattrocento=0.1|quicksand=0.1|roboto-slab=0.2|roboto-unhinted=2.4|routed-gothic=0.2"
        "|sil-andika=3.6|sil-charis=3.9|sil-gentium-basic=0.4|sil-harmattan=2.3|sora=0.1|spleen=0.2|stix=0.6"
        "|texgyre=8.2|tiresias=0.2|tuffy=0.2|urw-base35=10.8|vollkorn=1.3|yanone-kaffeesatz=0.2|yrsa-rasa=0.7"
    )
)
_NPM_MEGABYTES = {
    "fluentui-emoji": 23.8,
    "openmoji": 4.3,
    "@twemoji/svg": 1.5,
    "flag-icons": 1.1,
    "healthicons": 3.3,
    "@mdi/svg": 1.4,
    "@tabler/icons": 1.2,
    "naughty-words": 0.1,
}

PACKAGES = (
    *(
        Package(
            name=name,
            origin="debian",
            licence=FONT_LICENCE,
            megabytes=float(_FONT_MEGABYTES[name.removeprefix("fonts-")]),
        )
        for name in sources.FONT_PACKAGES
    ),
    Package(name=sources.EMOJI_FONT_PACKAGE, origin="debian", licence="OFL-1.1 and Apache-2.0", megabytes=9.9),
    Package(name=sources.WORD_PACKAGE, origin="debian", licence="public domain and SCOWL's own", megabytes=0.2),
    *(
        Package(name=name, origin="npm", licence=licence, version=version, megabytes=_NPM_MEGABYTES[name])
        for name, (version, licence) in sources.NPM_PACKAGES.items()
    ),
    Package(
        name=sources.WORD_WHEEL,
        origin="pypi",
        licence="Apache-2.0 (code), CC-BY-SA-4.0 (word frequencies)",
        version=sources.WORD_WHEEL_VERSION,
        megabytes=56.8,
    ),
)
