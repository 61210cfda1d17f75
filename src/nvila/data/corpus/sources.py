"""Where the corpus's raw material comes from: packages by name, and what of them is used.

Everything here may be redistributed: fonts from Debian main (DFSG-free), art under MIT, Apache-2.0, CC-BY or
CC-BY-SA. A superfamily is a design and everything derived from it, so that a held-out one is really unseen.
"""

from __future__ import annotations

from nvila.data.corpus.listing import listed

FONT_PACKAGES = tuple(
    f"fonts-{name}"
    for name in listed(
        "3270|adf-accanthis|adf-baskervald|adf-berenis|adf-gillius|adf-ikarius|adf-irianis|adf-libris"
        "|adf-mekanus|adf-romande|adf-switzera|adf-tribun|adf-universalis"
        "|adf-verana|agave|anonymous-pro|arapey|averia-sans-gwf|averia-serif-gwf|b612|beteckna"
        "|breip|cabin|cabinsketch|cantarell|cardo|clear-sans|cmu|comfortaa|comic-neue|compagnon"
        "|courier-prime|croscore|crosextra-caladea|crosextra-carlito|dancingscript|dejavu-core|dejavu-extra"
        "|dosis|dustin|ebgaramond|elstob|essays1743|eurofurence"
        "|fantasque-sans|fanwood|firacode|freefont-ttf|georgewilliams|gfs-artemisia|gfs-didot"
        "|gfs-neohellenic|go|goudybookletter|hack|hermit|inconsolata|inter|jetbrains-mono|junction"
        "|junicode|jura|karla|kaushanscript|klaudia-berenika|lato|league-mono|league-spartan|leckerli-one"
        "|liberation|lindenhill|linuxlibertine|lmodern|lobster|lobstertwo|manrope|millimetre|monofur|monoid"
        "|mononoki|motoya-l-cedar|noto-core|noto-mono|ocr-a|ocr-b|okolaks|oldstandard"
        "|open-sans|opendyslexic|osifont|oxygen|paratype|play|prociono|quattrocento|quicksand"
        "|roboto-slab|roboto-unhinted|routed-gothic|sil-andika|sil-charis"
        "|sil-gentium-basic|sil-harmattan|sora|spleen|stix|texgyre|tiresias|tuffy"
        "|urw-base35|vollkorn|yanone-kaffeesatz|yrsa-rasa"
    )
)

SUPERFAMILY_OF_PREFIX = tuple(
    tuple(pair.split("="))
    for pair in listed(
        "TeX Gyre Heros=nimbus-sans|Nimbus Sans=nimbus-sans|FreeSans=nimbus-sans"
        "|TeX Gyre Termes=nimbus-roman|Nimbus Roman=nimbus-roman|FreeSerif=nimbus-roman|STIX=nimbus-roman"
        "|TeX Gyre Cursor=nimbus-mono|Nimbus Mono=nimbus-mono|FreeMono=nimbus-mono|TeX Gyre Bonum=bookman"
        "|URW Bookman=bookman|TeX Gyre Adventor=gothic|URW Gothic=gothic|TeX Gyre Pagella=palladio"
        "|P052=palladio|TeX Gyre Schola=schoolbook|C059=schoolbook|TeX Gyre Chorus=chancery|Z003=chancery"
        "|Arimo=liberation|Cousine=liberation|Tinos=liberation|Liberation=liberation|Carlito=lato|Lato=lato"
        "|Noto=noto|Open Sans=noto|Hack=dejavu|Verana=dejavu|DejaVu=dejavu|CMU=computer-modern"
        "|Latin Modern=computer-modern|GFS Didot=gfs-didot|Lobster=lobster|Cabin=cabin|Roboto=roboto"
        "|Dustismo=dustismo|Domestic=domestic-manners|Caliban=caliban|Caslon=caslon|Cupola=cupola"
        "|GWMonospace=gwmonospace|unifur=eurofurence|Berenika=berenika|Klaudia=klaudia|Joscelyn=joscelyn"
        "|Junicode=junicode|Elstob=junicode|Terminus=terminus|Spleen=spleen|Averia=averia|PT =paratype"
        "|Linux Biolinum=biolinum|Linux Libertine=libertine|Oxygen=oxygen|League Mono=league-mono"
    )
)
"""Longest prefix first is not needed: no prefix here begins another with a different superfamily."""

SKIPPED_FONT_WORDS = listed(
    "Thin|Hairline|ExtraLight|UltraLight|Initials|Keyboard|Math|Integrals|NonUnicode|Size|Symbols"
    "|D050000L|Smallcaps|SmallCaps|Caps|Titling|Powerline|Dunhill|Tamil|Wargames|Winks|Balker|Junkyard"
    "|Fool|Attack|flatline|progenisis|Swift|Abogado|Monoisome|unitalic|Upright|OCRBE"
)
"""Styles that are unreadable at small sizes, hold no plain letters, or replace lower-case letters by capitals."""

NPM_PACKAGES = {
    "fluentui-emoji": ("1.3.0", "MIT"),
    "openmoji": ("17.0.0", "CC-BY-SA-4.0"),
    "@twemoji/svg": ("15.0.0", "CC-BY-4.0 (graphics), MIT (package)"),
    "flag-icons": ("7.5.0", "MIT"),
    "healthicons": ("2.0.0", "MIT"),
    "@mdi/svg": ("7.4.47", "Apache-2.0"),
    "@tabler/icons": ("3.51.0", "MIT"),
    "naughty-words": ("1.2.0", "CC-BY-4.0"),
}

EMOJI_FONT_PACKAGE = "fonts-noto-color-emoji"
WORD_PACKAGE = "wamerican"
RUDE_WORD_PACKAGE = "naughty-words"
WORD_WHEEL = "wordfreq"
WORD_WHEEL_VERSION = "3.1.1"


def superfamily_of(family: str, package: str) -> str:
    """The design that a font family belongs to: by prefix of its name, otherwise its Debian package's name."""
    for prefix, superfamily in SUPERFAMILY_OF_PREFIX:
        if family.startswith(prefix):
            return superfamily
    return package.removeprefix("fonts-")
