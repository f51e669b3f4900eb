"""Questions of fact for the kitchen; the model's build keeps those that it answers right."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from holdfast.data.knowledge import FAMILIES

_MORE: tuple[tuple[str, str], ...] = (
    ("Which planet is known as the red planet?", "Mars"),
    ("Which is the largest planet of the solar system?", "Jupiter"),
    ("Which planet is closest to the sun?", "Mercury"),
    ("Which star is closest to the earth?", "Sun"),
    ("Which is the largest ocean?", "Pacific"),
    ("Which is the longest river of Africa?", "Nile"),
    ("Which is the highest mountain on earth?", "Everest"),
    ("Which is the largest desert of Africa?", "Sahara"),
    ("Which is the largest animal that has ever lived?", "whale"),
    ("Which is the tallest animal?", "giraffe"),
    ("Which is the fastest land animal?", "cheetah"),
    ("Which gas do plants take in from the air?", "dioxide"),
    ("Which gas do we need to breathe?", "oxygen"),
    ("What is frozen water called?", "ice"),
    ("What is the chemical symbol of gold?", "Au"),
    ("What is the chemical symbol of oxygen?", "O"),
    ("What is the chemical formula of water?", "H2O"),
    ("What is the chemical formula of table salt?", "NaCl"),
    ("Which metal is liquid at room temperature?", "mercury"),
    ("Which organ pumps blood through the body?", "heart"),
    ("With which organ do we breathe?", "lungs"),
    ("With which organ do we think?", "brain"),
    ("Which is the largest organ of the human body?", "skin"),
    ("Who wrote Romeo and Juliet?", "Shakespeare"),
    ("Who wrote Hamlet?", "Shakespeare"),
    ("Who wrote Pride and Prejudice?", "Austen"),
    ("Who wrote Oliver Twist?", "Dickens"),
    ("Who wrote 1984?", "Orwell"),
    ("Who painted the Mona Lisa?", "Leonardo"),
    ("Who painted The Starry Night?", "Gogh"),
    ("Who composed the Moonlight Sonata?", "Beethoven"),
    ("Who composed The Magic Flute?", "Mozart"),
    ("Who was the first president of the United States?", "Washington"),
    ("Who was the first person on the moon?", "Armstrong"),
    ("Who invented the telephone?", "Bell"),
    ("Who developed the theory of relativity?", "Einstein"),
    ("Who discovered gravity when an apple fell?", "Newton"),
    ("Who wrote On the Origin of Species?", "Darwin"),
    ("In which country is the Eiffel Tower?", "France"),
    ("In which city is the Eiffel Tower?", "Paris"),
    ("In which country is the Great Wall?", "China"),
    ("In which city is the Colosseum?", "Rome"),
    ("In which country are the pyramids of Giza?", "Egypt"),
    ("In which country is the Taj Mahal?", "India"),
    ("In which city is the Statue of Liberty?", "York"),
    ("In which country is Mount Fuji?", "Japan"),
    ("In which city is Big Ben?", "London"),
    ("In which country is the city of Munich?", "Germany"),
    ("In which country is the city of Barcelona?", "Spain"),
    ("In which country is the city of Milan?", "Italy"),
    ("In which country is the city of Shanghai?", "China"),
    ("In which country is the city of Mumbai?", "India"),
    ("In which country is the city of Toronto?", "Canada"),
    ("In which country is the city of Sydney?", "Australia"),
    ("In which country is the city of Osaka?", "Japan"),
    ("In which country is the city of Lyon?", "France"),
    ("Which ocean lies between Europe and America?", "Atlantic"),
    ("Which sea lies between Europe and Africa?", "Mediterranean"),
    ("What do bees make?", "honey"),
    ("What do cows eat?", "grass"),
    ("What do we call a scientist who studies stars?", "astronomer"),
    ("What do we call a doctor for teeth?", "dentist"),
    ("What do we call a person who flies a plane?", "pilot"),
    ("What do we call a house for books?", "library"),
    ("What do we call a baby cat?", "kitten"),
    ("What do we call a baby dog?", "puppy"),
    ("How many days are in a week?", "seven"),
    ("How many months are in a year?", "12"),
    ("How many hours are in a day?", "24"),
    ("How many minutes are in an hour?", "60"),
    ("How many seconds are in a minute?", "60"),
    ("How many legs does a spider have?", "eight"),
    ("How many legs does an insect have?", "six"),
    ("How many sides does a triangle have?", "three"),
    ("How many continents are there?", "seven"),
    ("How many players does a football team have on the field?", "11"),
    ("How many letters has the English alphabet?", "26"),
    ("How many strings has a violin?", "four"),
    ("Which month comes after June?", "July"),
    ("Which month comes after March?", "April"),
    ("Which day comes after Monday?", "Tuesday"),
    ("Which day comes after Friday?", "Saturday"),
    ("Which season comes after winter?", "spring"),
    ("Which is the first month of the year?", "January"),
    ("Which is the last month of the year?", "December"),
    ("Which colour do you get from blue and yellow?", "green"),
    ("Which colour do you get from red and white?", "pink"),
    ("What colour is the sky on a clear day?", "blue"),
    ("What colour is a ripe banana?", "yellow"),
    ("What is the plural of mouse?", "mice"),
    ("What is the plural of child?", "children"),
    ("What is the plural of foot?", "feet"),
    ("What is the past tense of go?", "went"),
    ("What is the past tense of eat?", "ate"),
    ("What is the currency of Japan?", "yen"),
    ("What is the currency of the United Kingdom?", "pound"),
    ("What is the currency of India?", "rupee"),
    ("What is the currency of the United States?", "dollar"),
    ("Which language is spoken in Germany?", "German"),
    ("Which language is spoken in France?", "French"),
    ("Which language is spoken in Portugal?", "Portuguese"),
    ("Which language is spoken in Russia?", "Russian"),
    ("Which instrument has black and white keys?", "piano"),
    ("Which animal is called man's best friend?", "dog"),
    ("Which force pulls things towards the earth?", "gravity"),
    ("At how many degrees Celsius does water boil?", "100"),
    ("At how many degrees Celsius does water freeze?", "0"),
    ("In which year did the Second World War end?", "1945"),
    ("In which year did the First World War begin?", "1914"),
    ("In which year did people first walk on the moon?", "1969"),
)


@dataclass(frozen=True, slots=True)
class Fact:
    """A question, and the word or number that a right answer holds."""

    question: str
    answer: str


def asked() -> Iterator[Fact]:
    """Give every question that is tried: those of the source `questions`, and more."""
    for ask, _, pairs in FAMILIES:
        for thing, answer in (pair.split() for pair in pairs.split(",")):
            yield Fact(ask.format(thing), answer)
    for question, answer in _MORE:
        yield Fact(question, answer)
