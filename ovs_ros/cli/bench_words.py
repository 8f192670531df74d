"""Everyday words that `ovs bench` composes vocabularies of any size from."""

_NOUNS = """
    person wall floor ceiling door window table chair sofa bed cabinet shelf desk lamp curtain
    carpet pillow blanket mirror picture clock book bookcase box bag bottle cup plate bowl knife
    fork spoon pan kettle oven fridge sink tap toilet bathtub shower towel basket bin plant flower
    vase candle television screen keyboard mouse laptop phone remote printer cable socket switch
    heater fan stairs railing fireplace toy ball guitar piano bicycle helmet shoe hat coat umbrella
    backpack suitcase rope ladder hammer drill saw screwdriver toolbox bucket broom mop pallet crate
    barrel forklift trolley conveyor robot drone car truck bus tram train motorcycle scooter van
    road pavement kerb crossing bridge tunnel fence gate pole sign hydrant bench fountain statue
    tent awning building house roof chimney balcony tower tree bush grass hedge hill mountain rock
    sand river lake sea boat sky cloud dog cat horse cow sheep bird apple banana bread cake pizza
    camera microphone speaker whiteboard
"""
_ADJECTIVES = """
    red orange yellow green blue purple pink brown black white grey golden silver beige turquoise
    big small tall short long wide narrow thick thin heavy light tiny huge flat round square oval
    old new broken clean dirty dusty wet dry empty full open closed locked folded rolled stacked
    wooden metal plastic glass paper cardboard leather woollen cotton stone brick concrete ceramic
    rubber steel copper brass iron bamboo wicker marble straw velvet silk shiny matt transparent
    striped spotted checked painted rusty polished scratched faded bright dark soft hard rough
    smooth sharp blunt bent straight curved twisted cracked torn worn modern antique rustic elegant
    plain fancy simple cheap expensive rare common hanging standing lying leaning moving parked
    floating portable fixed loose garden kitchen office bathroom bedroom hospital school factory
    street market station harbour farm hotel museum library airport warehouse workshop laboratory
    attic cellar summer winter child's adult's left right upper lower front rear inner outer warm
    cold hot frozen
"""

NOUNS = tuple(_NOUNS.split())
ADJECTIVES = tuple(_ADJECTIVES.split())
