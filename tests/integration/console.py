"""What the tests of the page look at: a few tables, embedded by real small models, and a browser."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from tests.images import BLUE, GREEN, RED, encoded, plain_image
from tests.needs import needs_package, needs_program
from tests.types import Connection

IMAGES = Path(__file__).parents[2] / "docs" / "images"
VILLAIN = '<script>document.title = "stolen"</script><img src=x onerror="document.title=1">'

# (title, body, topic, minutes)
RECIPES = [
    ("Pilaf", "Long-grain rice simmered in broth until each grain stands apart.", "main", 30),
    ("Sushi rice", "Short-grain rice is rinsed, steamed, and seasoned with vinegar while it is hot.", "main", 60),
    ("Risotto", "Stir hot stock into round rice, ladle by ladle, until it is creamy.", "main", 40),
    ("Rice pudding", "Milk, sugar and vanilla thicken slowly around the grains.", "sweet", 50),
    ("Omelette", "Eggs beaten with a fork, fried in butter and folded.", "main", 10),
    ("Poached eggs", "Slip eggs into water that barely simmers, and lift them out after three minutes.", "main", 10),
    ("Pancakes", "A thin batter of flour, milk and eggs, fried on both sides.", "sweet", 25),
    ("Toast", "Bread, browned on both sides, with butter.", "side", 5),
    ("Borscht", "A soup of beetroots and cabbage for winter, with sour cream.", "soup", 90),
    ("Gazpacho", "A cold soup of ripe tomatoes, cucumber and garlic for hot days.", "soup", 20),
    ("Onion soup", "Onions cooked brown and sweet, broth, and a slice of bread with cheese.", "soup", 70),
    ("Lentil soup", "Red lentils boiled with cumin and lemon.", "soup", 35),
    ("Roast potatoes", "Parboil, shake, and roast in hot fat until they are crisp.", "side", 60),
    ("Mashed potatoes", "Boil floury potatoes and press them with butter and milk.", "side", 35),
    ("Green salad", "Leaves, oil, vinegar, salt; toss it at the table.", "side", 10),
    ("Apple pie", "Sour apples with cinnamon below a lid of short pastry.", "sweet", 80),
    ("Chocolate cake", "Dark chocolate melted with butter, eggs and sugar; baked until it just holds.", "sweet", 45),
    ("Lemonade", "Lemon juice, sugar and cold water over ice.", "drink", 10),
    ("Mint tea", "Fresh mint and boiling water, sweet and hot.", "drink", 5),
    ("Bread", "Flour, water, salt and yeast; knead, wait, shape, wait, and bake it dark.", "side", 240),
    ("Pizza", "A thin dough with tomato and mozzarella in the hottest oven that you have.", "main", 30),
    ("Steamed fish", "Fish on ginger and spring onions, ten minutes above boiling water.", "main", 25),
    ("Curry", "Onions, spices and coconut milk, simmered with vegetables; serve it with rice.", "main", 45),
    ("Dumplings", "Fold a filling of pork and cabbage into rounds of dough, and steam them.", "main", 75),
]
HANDBOOK = """# The kitchen

## Knives

A sharp knife is a safe knife. Draw the blade over a wet stone, twenty strokes on each side, and dry it at once.

## Fire

Never pour water on burning oil. Turn the stove off, put a lid on the pan, and leave it there until it is cold.

## Cleaning

Soak a burnt pot over night with baking soda and water. In the morning the crust comes off with a wooden spoon.

## Storing

Rice and flour keep for a year in a closed jar. Moths come in with the paper bag, so look into each before you fill it.
"""


def make(db: Connection) -> None:
    """Tables and collections; their rows are owed until a sidecar runs."""
    db.execute("SELECT pgmeaning.set_default_model('all-MiniLM-L6-v2')")
    db.execute("CREATE TABLE recipes (id int PRIMARY KEY, title text, body text, topic text, minutes int)")
    with db.cursor() as cursor:
        rows = [(number, *row) for number, row in enumerate(RECIPES, 1)]
        cursor.executemany("INSERT INTO recipes VALUES (%s, %s, %s, %s, %s)", rows)
    db.execute(
        "SELECT pgmeaning.attach('recipes', template => '{title}. {body}', language => 'english', "
        "chunking => NULL, model => 'all-MiniLM-L6-v2')"
    )
    db.execute("CREATE TABLE handbook (id int PRIMARY KEY, body text)")
    db.execute("INSERT INTO handbook VALUES (1, %s), (2, 'Wash your hands.')", (HANDBOOK,))
    db.execute(
        "SELECT pgmeaning.attach('handbook', columns => '{body}', model => 'all-MiniLM-L6-v2', "
        """chunking => '{"method": "markdown", "size": 40}')"""
    )
    db.execute("CREATE TABLE strange (id text PRIMARY KEY, body text)")
    db.execute("INSERT INTO strange VALUES (%s, %s), ('2', 'harmless')", (f"1{VILLAIN}", f"evil {VILLAIN}"))
    db.execute(
        "SELECT pgmeaning.attach('strange', columns => '{body}', model => 'synthetic-384', language => 'simple')"
    )
    db.execute("CREATE TABLE photos (id int PRIMARY KEY, caption text, picture bytea)")
    for number, (caption, color) in enumerate([("red", RED), ("green", GREEN), ("blue", BLUE)], 1):
        picture = encoded(plain_image(color, (640, 400)))
        db.execute("INSERT INTO photos VALUES (%s, %s, %s)", (number, f"a {caption} wall", picture))
    db.execute("INSERT INTO photos VALUES (4, 'broken', %s)", (b"no picture at all",))
    db.execute(
        "SELECT pgmeaning.attach('photos', columns => '{caption}', image => 'picture', model => 'synthetic-384')"
    )


def picture(tab: Any, name: str) -> None:
    """Keep what the tab shows for the docs, if somebody wants new pictures: PGMEANING_SCREENSHOTS=1."""
    if os.environ.get("PGMEANING_SCREENSHOTS"):
        IMAGES.mkdir(exist_ok=True)
        taken = Image.open(io.BytesIO(tab.screenshot(animations="disabled", caret="hide")))
        taken.quantize(128, dither=Image.Dither.NONE).save(IMAGES / f"{name}.png", optimize=True)


@contextmanager
def browser() -> Iterator[Any]:
    """Chromium without a window."""
    playwright = needs_package("playwright.sync_api", "dev")
    program = needs_program("chromium")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()
