"""What the pictures show: which emoji and pictograms are known concepts, their everyday names, and synonyms.

A concept gathers every rendering of the same thing over the art sources ("dog face" and "dog" are both `dog`).
Faces with fine-grained emotions, people, signs and shapes are left out: their names are not what a person
would say. Flags are `flag of X` for countries whose flags cannot be mistaken for another's.
"""

from __future__ import annotations

from nvila.data.corpus.listing import listed

SUBGROUPS = frozenset(
    listed(
        "face-costume|body-parts|animal-mammal|animal-bird|animal-amphibian|animal-reptile|animal-marine"
        "|animal-bug|plant-flower|plant-other|food-fruit|food-vegetable|food-prepared|food-asian|food-sweet"
        "|drink|dishware|place-geographic|place-building|place-religious|place-other|transport-ground"
        "|transport-water|transport-air|hotel|sky-weather|event|award-medal|sport|game|arts-crafts|clothing"
        "|sound|music|musical-instrument|phone|computer|light-video|book-paper|money|mail|writing|office"
        "|lock|tool|science|medical|household"
    )
)

ALSO = frozenset(
    listed(
        "hourglass done|watch|alarm clock|stopwatch|timer clock|mantelpiece clock|world map|compass"
        "|globe showing Americas|globe showing Europe-Africa|globe with meridians|red heart|broken heart"
        "|collision|speech balloon|skull|smiling face with sunglasses|crying face|angry face"
        "|star and crescent|peace symbol|yin yang|atom symbol|recycling symbol|check mark|warning"
        "|no smoking|radioactive|biohazard|infinity|shopping cart|headstone|coffin|moai|cigarette"
        "|red question mark|red exclamation mark|grinning face|winking face|sleeping face|anchor"
    )
)

DROP = frozenset(
    listed(
        "ogre|goblin|alien monster|guide dog|service dog|ear with hearing aid|mechanical arm|mechanical leg"
        "|biting lip|anatomical heart|black cat|hatching chick|front-facing baby chick|black bird|phoenix"
        "|wing|pig nose|ram|ewe|two-hump camel|orca|blowfish|tropical fish|oyster|microbe|rosette"
        "|wilted flower|white flower|lotus|hyacinth|sheaf of rice|herb|fallen leaf|leaf fluttering in wind"
        "|empty nest|leafless tree|evergreen tree|snow-capped mountain|brown mushroom|root vegetable"
        "|leafy green|flatbread|stuffed flatbread|tamale|falafel|cooking|shallow pan of food|pot of food"
        "|fondue|bowl with spoon|canned food|rice cracker|curry rice|oden|fish cake with swirl|moon cake"
        "|dango|shaved ice|soft ice cream|custard|teacup without handle|sake|clinking beer mugs"
        "|clinking glasses|pouring liquid|beverage box|mate|ice|fork and knife with plate|landslide"
        "|mount fuji|desert|national park|building construction|rock|hut|houses|derelict house"
        "|house with garden|Japanese post office|post office|bank|hotel|love hotel|convenience store"
        "|department store|Japanese castle|wedding|hindu temple|synagogue|shinto shrine|kaaba|foggy"
        "|night with stars|cityscape at dusk|sunrise over mountains|sunset|bridge at night|railway car"
        "|high-speed train|bullet train|metro|light rail|station|tram|monorail|mountain railway|tram car"
        "|trolleybus|minibus|oncoming bus|oncoming police car|oncoming taxi|oncoming automobile"
        "|sport utility vehicle|articulated lorry|motorized wheelchair|bus stop|motorway|oil drum|wheel"
        "|horizontal traffic light|construction|ring buoy|motor boat|passenger ship|ferry|small airplane"
        "|airplane departure|airplane arrival|seat|suspension railway|mountain cableway|aerial tramway"
        "|new moon|waxing crescent moon|first quarter moon|waxing gibbous moon|waning gibbous moon"
        "|last quarter moon|waning crescent moon|new moon face|first quarter moon face"
        "|last quarter moon face|full moon face|sun with face|glowing star|milky way|sun behind small cloud"
        "|sun behind large cloud|sun behind rain cloud|cloud with lightning|fog|wind face|cyclone"
        "|closed umbrella|umbrella with rain drops|snowman without snow|firecracker|confetti ball"
        "|tanabata tree|pine decoration|carp streamer|wind chime|moon viewing ceremony|red envelope"
        "|reminder ribbon|admission tickets|military medal|2nd place medal|3rd place medal|1st place medal"
        "|softball|rugby football|flying disc|cricket game|field hockey|lacrosse|martial arts uniform"
        "|goal net|running shirt|curling stone|water pistol|slot machine|nesting dolls|mirror ball"
        "|spade suit|heart suit|diamond suit|club suit|mahjong red dragon|flower playing cards|joker"
        "|performing arts|thread|knot|goggles|safety vest|coat|sari|briefs|bikini|clutch bag"
        "|folding hand fan|thong sandal|flat shoe|hair pick|rescue worker’s helmet|prayer beads"
        "|woman’s sandal|hiking boot|man’s shoe|billed cap|speaker low volume|speaker medium volume"
        "|muted speaker|bell with slash|postal horn|musical score|musical notes|level slider|control knobs"
        "|mobile phone with arrow|telephone receiver|low battery|electric plug|trackball|computer disk|dvd"
        "|film frames|camera with flash|magnifying glass tilted right|diya lamp|red paper lantern"
        "|notebook with decorative cover|green book|blue book|orange book|notebook|ledger|page with curl"
        "|rolled-up newspaper|bookmark tabs|yen banknote|euro banknote|pound banknote|money with wings"
        "|receipt|chart increasing with yen|e-mail|incoming envelope|envelope with arrow|outbox tray"
        "|inbox tray|closed mailbox with lowered flag|open mailbox with raised flag"
        "|open mailbox with lowered flag|postbox|ballot box with ballot|black nib|fountain pen|memo"
        "|open file folder|card index dividers|tear-off calendar|spiral notepad|spiral calendar|card index"
        "|round pushpin|linked paperclips|triangular ruler|card file box|locked with pen|locked with key"
        "|unlocked|old key|hammer and pick|hammer and wrench|clamp|white cane|link|chains|broken chain|hook"
        "|alembic|petri dish|satellite antenna|crutch|x-ray|couch and lamp|plunger|mouse trap|safety pin"
        "|bubbles|long drum|banjo|flute|chart decreasing|lab coat|kimono|headstone|takeout box"
        "|steaming bowl|lime|green apple|drum stick|roasted sweet potato|tanabata|sparkler"
        "|speaker high volume|boar|water buffalo|mammoth|badger|ox"
    )
)

RENAME = dict(
    pair.split("=")
    for pair in listed(
        "pile of poo=poop|clown face=clown|flexed biceps=muscle|dog face=dog|monkey face=monkey"
        "|cat face=cat|tiger face=tiger|horse face=horse|cow face=cow|pig face=pig|mouse face=mouse"
        "|rabbit face=rabbit|baby chick=chick|dragon face=dragon|sauropod=dinosaur|T-Rex=dinosaur"
        "|spouting whale=whale|spiral shell=shell|honeybee=bee|lady beetle=ladybug|cherry blossom=flower"
        "|hibiscus=flower|blossom=flower|bouquet=flowers|potted plant=plant|seedling=sprout"
        "|deciduous tree=tree|four leaf clover=clover|shamrock=clover|tangerine=orange|red apple=apple"
        "|kiwi fruit=kiwi|ear of corn=corn|hot pepper=chili pepper|baguette bread=baguette"
        "|cheese wedge=cheese|meat on bone=meat|poultry leg=chicken leg|cut of meat=steak"
        "|french fries=fries|green salad=salad|bento box=bento|cooked rice=rice|fried shrimp=fried shrimp"
        "|birthday cake=cake|shortcake=cake|chocolate bar=chocolate|honey pot=honey|glass of milk=milk"
        "|hot beverage=coffee|bottle with popping cork=champagne|wine glass=wine|cocktail glass=cocktail"
        "|beer mug=beer|tumbler glass=whiskey|cup with straw=drink|kitchen knife=knife|camping=tent"
        "|beach with umbrella=beach|desert island=island|classical building=temple|wood=log"
        "|office building=building|Tokyo tower=tower|Statue of Liberty=Statue of Liberty"
        "|carousel horse=carousel|playground slide=slide|bridge at night=bridge|locomotive=train"
        "|fire engine=fire truck|automobile=car|delivery truck=truck|racing car=race car"
        "|motor scooter=scooter|manual wheelchair=wheelchair|auto rickshaw=rickshaw"
        "|kick scooter=kick scooter|fuel pump=gas pump|police car light=siren"
        "|vertical traffic light=traffic light|passenger ship=ship|flying saucer=ufo|bellhop bell=bell"
        "|luggage=suitcase|crescent moon=moon|full moon=full moon|ringed planet=planet"
        "|cloud with lightning and rain=thunderstorm|cloud with rain=rain|cloud with snow=snow"
        "|umbrella on ground=beach umbrella|high voltage=lightning|water wave=wave"
        "|sun behind cloud=sun and cloud|jack-o-lantern=pumpkin|wrapped gift=gift|sports medal=medal"
        "|soccer ball=soccer ball|american football=football|tennis=tennis ball|ping pong=ping pong"
        "|flag in hole=golf|pool 8 ball=8 ball|video game=game controller|game die=dice|bullseye=target"
        "|framed picture=painting|artist palette=palette|sewing needle=needle|one-piece swimsuit=swimsuit"
        "|woman’s clothes=blouse|shopping bags=shopping bag|running shoe=sneaker|high-heeled shoe=high heel"
        "|woman’s boot=boot|woman’s hat=hat|graduation cap=graduation cap|military helmet=helmet"
        "|gem stone=diamond|studio microphone=microphone|musical note=music note|musical keyboard=piano"
        "|headphone=headphones|mobile phone=phone|desktop computer=computer|computer mouse=computer mouse"
        "|optical disk=cd|magnifying glass tilted left=magnifying glass|closed book=book"
        "|page facing up=page|dollar banknote=dollar bill|closed mailbox with raised flag=mailbox"
        "|package=box|file folder=folder|chart increasing=line chart|straight ruler=ruler"
        "|wastebasket=trash can|locked=lock|crossed swords=swords|carpentry saw=saw|balance scale=scale"
        "|drop of blood=blood|adhesive bandage=bandage|roll of paper=toilet paper|hourglass done=hourglass"
        "|timer clock=timer|mantelpiece clock=clock|globe showing Americas=earth"
        "|globe showing Europe-Africa=earth|globe with meridians=globe|red heart=heart|collision=explosion"
        "|speech balloon=speech bubble|smiling face with sunglasses=sunglasses face"
        "|star and crescent=star and crescent|red question mark=question mark"
        "|red exclamation mark=exclamation mark|grinning face=happy face|no smoking=no smoking"
        "|recycling symbol=recycling|japanese dolls=dolls|Japanese dolls=dolls|party popper=confetti"
        "|moai=statue|person=person|leafy green=lettuce|roller skate=roller skate|boxing glove=boxing glove"
        "|ticket=ticket|pick=pickaxe|nut and bolt=bolt|peanuts=peanut|grapes=grapes|cherries=cherry"
        "|blueberries=blueberry|beans=bean|pancakes=pancake|chopsticks=chopsticks|jeans=jeans|socks=sock"
        "|gloves=glove|skis=ski|bow and arrow=bow and arrow|television=tv|closed umbrella=umbrella"
        "|goggles=goggles|deer=deer|bison=bison|glowing star=star|label=tag|megaphone=megaphone"
        "|loudspeaker=megaphone|crying face=crying face|books=books|ballet shoes=ballet shoes"
        "|small airplane=airplane|sparkles=sparkles|pistol=gun|hamburger=burger|doughnut=donut|soap=soap"
        "|ginger root=ginger"
    )
)

SYNONYMS = {
    "poop": ("poo", "pile of poo"),
    "dinosaur": ("t-rex", "sauropod", "t rex"),
    "bee": ("honeybee", "honey bee"),
    "ladybug": ("lady beetle", "ladybird"),
    "flower": ("blossom", "cherry blossom", "hibiscus"),
    "flowers": ("bouquet",),
    "plant": ("potted plant", "house plant"),
    "sprout": ("seedling", "plant"),
    "orange": ("tangerine",),
    "apple": ("red apple",),
    "kiwi": ("kiwi fruit",),
    "corn": ("ear of corn", "maize"),
    "chili pepper": ("chili", "hot pepper", "chilli"),
    "fries": ("french fries", "chips"),
    "burger": ("hamburger",),
    "donut": ("doughnut",),
    "cake": ("birthday cake", "shortcake"),
    "milk": ("glass of milk",),
    "coffee": ("hot beverage", "cup of coffee", "tea", "cup"),
    "wine": ("wine glass", "glass of wine", "red wine"),
    "cocktail": ("martini", "cocktail glass"),
    "beer": ("beer mug", "mug of beer"),
    "whiskey": ("whisky", "tumbler glass"),
    "car": ("automobile", "red car"),
    "truck": ("delivery truck", "lorry"),
    "fire truck": ("fire engine",),
    "scooter": ("motor scooter", "moped"),
    "gas pump": ("fuel pump", "petrol pump"),
    "ufo": ("flying saucer",),
    "suitcase": ("luggage",),
    "moon": ("crescent moon",),
    "planet": ("saturn", "ringed planet"),
    "lightning": ("high voltage", "lightning bolt"),
    "rain": ("rain cloud", "cloud with rain"),
    "snow": ("snow cloud", "cloud with snow"),
    "pumpkin": ("jack-o-lantern",),
    "gift": ("present", "wrapped gift"),
    "soccer ball": ("football", "soccer"),
    "football": ("american football",),
    "tennis ball": ("tennis",),
    "game controller": ("video game", "controller"),
    "dice": ("die", "game die"),
    "target": ("bullseye", "dartboard"),
    "painting": ("framed picture", "picture"),
    "sneaker": ("running shoe", "shoe", "trainer"),
    "high heel": ("high-heeled shoe", "heel", "shoe"),
    "hat": ("woman's hat",),
    "diamond": ("gem", "gem stone"),
    "phone": ("mobile phone", "smartphone", "cell phone"),
    "computer": ("desktop computer", "monitor"),
    "cd": ("optical disk", "disc", "disk"),
    "tv": ("television",),
    "piano": ("keyboard", "musical keyboard"),
    "trash can": ("wastebasket", "bin", "garbage can"),
    "lock": ("padlock", "locked"),
    "box": ("package", "parcel"),
    "bandage": ("adhesive bandage", "plaster"),
    "clock": ("mantelpiece clock",),
    "earth": ("globe", "world"),
    "explosion": ("collision", "bang"),
    "airplane": ("plane", "aeroplane"),
    "bicycle": ("bike",),
    "motorcycle": ("motorbike",),
    "sailboat": ("boat", "sailing boat"),
    "speedboat": ("boat",),
    "taxi": ("cab",),
    "rooster": ("cock",),
    "mouse": ("rat",),
    "crocodile": ("alligator",),
    "rabbit": ("bunny",),
    "chick": ("baby chick",),
    "bread": ("loaf",),
    "steak": ("meat", "cut of meat"),
    "chicken leg": ("drumstick", "poultry leg"),
    "eggplant": ("aubergine",),
    "glasses": ("eyeglasses",),
    "t-shirt": ("shirt", "tshirt"),
    "necktie": ("tie",),
    "jeans": ("pants", "trousers"),
    "purse": ("handbag",),
    "handbag": ("purse",),
    "medal": ("sports medal",),
    "fire": ("flame",),
    "droplet": ("water drop", "drop"),
    "christmas tree": ("xmas tree",),
    "muscle": ("biceps", "arm"),
    "temple": ("classical building",),
    "building": ("office building",),
    "sun and cloud": ("sun behind cloud",),
    "magnifying glass": ("magnifier",),
    "light bulb": ("bulb", "lightbulb"),
    "hammer": (),
    "tag": ("label",),
    "hourglass": ("sand clock",),
    "bolt": ("nut and bolt",),
    "ship": ("boat", "passenger ship"),
    "umbrella": (),
    "happy face": ("smiley", "smile", "grinning face"),
    "crying face": ("sad face",),
    "train": ("locomotive",),
}

COUNTRIES = dict(
    pair.split("=")
    for pair in listed(
        "us=the United States|gb=the United Kingdom|fr=France|de=Germany|it=Italy|es=Spain|pt=Portugal"
        "|nl=the Netherlands|be=Belgium|ch=Switzerland|at=Austria|ie=Ireland|se=Sweden|no=Norway|dk=Denmark"
        "|fi=Finland|gr=Greece|tr=Turkey|pl=Poland|cz=the Czech Republic|hu=Hungary|ua=Ukraine|ru=Russia"
        "|ro=Romania|bg=Bulgaria|rs=Serbia|hr=Croatia|ca=Canada|mx=Mexico|br=Brazil|ar=Argentina|cl=Chile"
        "|co=Colombia|pe=Peru|cu=Cuba|jm=Jamaica|jp=Japan|cn=China|kr=South Korea|in=India|pk=Pakistan"
        "|bd=Bangladesh|th=Thailand|vn=Vietnam|ph=the Philippines|my=Malaysia|sg=Singapore|id=Indonesia"
        "|au=Australia|nz=New Zealand|za=South Africa|eg=Egypt|ma=Morocco|ng=Nigeria|ke=Kenya|et=Ethiopia"
        "|gh=Ghana|il=Israel|sa=Saudi Arabia|ir=Iran|iq=Iraq|lb=Lebanon|np=Nepal|lk=Sri Lanka|kz=Kazakhstan"
        "|ge=Georgia|eu=the European Union|is=Iceland|ee=Estonia"
    )
)


def concept_of_emoji(annotation: str, subgroup: str) -> str | None:
    """The everyday name of an emoji by its Unicode short name and subgroup, or None when it is not a known concept."""
    if annotation in DROP or (subgroup not in SUBGROUPS and annotation not in ALSO):
        return None
    return RENAME.get(annotation, annotation if annotation.startswith("Statue") else annotation.lower())


def flag_concept(country_code: str) -> str | None:
    """`flag of X` for a known two-letter country code in lower case, or None."""
    country = COUNTRIES.get(country_code)
    return None if country is None else f"flag of {country}"


def accepted_names(concept: str) -> list[str]:
    """Every answer that names the concept correctly, the canonical one first."""
    names = [concept, *SYNONYMS.get(concept, ())]
    if concept.startswith("flag of "):
        country = concept.removeprefix("flag of ")
        bare = country.removeprefix("the ")
        names += [f"flag of {bare}", country, bare, f"{bare} flag"]
    return list(dict.fromkeys(names))
