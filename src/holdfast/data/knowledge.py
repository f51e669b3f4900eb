"""Common knowledge: questions of fact with answers of one word, for sources that ask them."""

from __future__ import annotations

FAMILIES: tuple[tuple[str, str, str], ...] = (
    (
        "What is the capital of {}?",
        "The capital of {} is {}.",
        "France Paris, Italy Rome, Spain Madrid, Portugal Lisbon, Germany Berlin, Austria Vienna,"
        " Poland Warsaw, Greece Athens, Ireland Dublin, Norway Oslo, Sweden Stockholm,"
        " Finland Helsinki, Denmark Copenhagen, Hungary Budapest, Japan Tokyo, China Beijing,"
        " Egypt Cairo, Kenya Nairobi, Cuba Havana, Peru Lima, Canada Ottawa, Russia Moscow,"
        " Belgium Brussels, Thailand Bangkok",
    ),
    (
        "What is the opposite of {}?",
        "The opposite of {} is {}.",
        "hot cold, wet dry, up down, left right, day night, early late, young old, rich poor,"
        " open closed, full empty, heavy light, high low, strong weak, good bad, loud quiet,"
        " happy sad, true false, first last, north south, east west",
    ),
    (
        "What is a young {} called?",
        "A young {} is called a {}.",
        "dog puppy, cat kitten, sheep lamb, cow calf, horse foal, duck duckling, goat kid,"
        " bear cub, goose gosling, frog tadpole",
    ),
    (
        "Which language do most people in {} speak?",
        "Most people in {} speak {}.",
        "Brazil Portuguese, Mexico Spanish, Argentina Spanish, Australia English, Austria German,"
        " Japan Japanese, Italy Italian, France French, Poland Polish, Greece Greek",
    ),
    (
        "What is {}?",
        "{} is {}.",
        "2+3 5, 4+5 9, 7+1 8, 6+4 10, 8+3 11, 5+7 12, 9+9 18, 10+5 15, 3+3 6, 20+20 40,"
        " 9-4 5, 10-3 7, 8-6 2, 2*4 8, 3*5 15, 10*10 100",
    ),
    (
        "What colour is {}?",
        "The colour of {} is {}.",
        "grass green, snow white, coal black, blood red, gold yellow, chocolate brown,"
        " milk white, chalk white",
    ),
    (
        "On which continent is {}?",
        "{} is in {}.",
        "Germany Europe, France Europe, India Asia, China Asia, Egypt Africa, Kenya Africa,"
        " Nigeria Africa, Sweden Europe, Vietnam Asia, Ghana Africa",
    ),
    (
        "What do we call a person who {}?",
        "A person who {} is called a {}.",
        "teaches teacher, bakes baker, paints painter, sings singer, dances dancer,"
        " farms farmer, hunts hunter, writes writer, drives driver, swims swimmer",
    ),
)
"""Of each family: how it asks, how it is answered in a sentence, and pairs of a thing and its
answer, both one word. Source: ours; common knowledge."""
