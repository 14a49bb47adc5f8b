"""What the model is asked, so that it writes texts to learn from: patterns, each with a few things to fill in.

None of them is a prompt of the benchmark that the head is measured with.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Final

_THINGS: Final = (
    "a bicycle|a compass|a piano|a microscope|a windmill|a telephone|a candle|a bridge|a volcano|a glacier|the heart|"
    "the moon|a rainbow|an earthquake|a battery|a vaccine|a tree|a whale|an ant colony|photosynthesis|gravity|"
    "inflation|a parliament|the stock market|a bank loan|an airplane wing|yeast|glass|paper|steel|a satellite|"
    "a search engine|a database|the internet|a lighthouse|a submarine|chess|jazz|a marathon|tea|a magnet|a camera|"
    "a clock|a sailing boat|an elevator|a robot|a thermometer|a mirror|rubber|cotton|salt|honey|bread|chocolate|"
    "a desert|a river delta|a hurricane|a coral reef|a cactus|a butterfly|an octopus|a penguin|an elephant|the brain|"
    "the skin|a fever|an allergy|a virus|electricity|sound|democracy|a contract|insurance|a tax|a museum|a newspaper|"
    "an opera|a violin|football|a passport|a calendar|the metric system|a firewall|an operating system|a compiler"
)
_PLACES: Final = (
    "Norway|Kenya|Japan|Brazil|Egypt|India|Canada|Greece|Vietnam|Peru|Iceland|Morocco|Poland|Mexico|Turkey|Portugal|"
    "Finland|Thailand|Argentina|Ireland|Nepal|Cuba|South Africa|Hungary|Chile|Indonesia"
)
_PEOPLE: Final = (
    "Ada Lovelace|Isaac Newton|Cleopatra|Leonardo da Vinci|Rosa Parks|Charles Darwin|Nelson Mandela|Frida Kahlo|"
    "Galileo Galilei|Florence Nightingale|Alan Turing|Johann Sebastian Bach|Amelia Earhart|Mahatma Gandhi|"
    "William Shakespeare|Albert Einstein|Joan of Arc|Marco Polo|Napoleon Bonaparte|Vincent van Gogh|Louis Pasteur|"
    "Martin Luther King|Aristotle|Ludwig van Beethoven|Abraham Lincoln|Jane Austen|Nikola Tesla"
)
_TASKS: Final = (
    "reverses a list|finds the largest number in a list|checks whether a word is a palindrome|"
    "counts how often each word occurs in a text|computes the factorial of a number|sorts a list of names|"
    "reads a file and prints its lines|adds two matrices|converts Celsius to Fahrenheit|checks whether a year is a "
    "leap year|finds the prime numbers below a limit|merges two sorted lists|removes spaces from a string|"
    "computes the average of some numbers|prints the Fibonacci numbers|joins two dictionaries|parses a date|"
    "draws a triangle of stars|finds duplicates in a list|splits a text into sentences|counts the digits of a number|"
    "makes a random password|checks whether brackets match|searches a sorted list|rounds a price|turns a number into "
    "binary digits|draws a random card|computes the area of a circle|replaces a word in a text|sums the even numbers"
)
_LISTS: Final = (
    "fruits|sports for children|books for a long journey|ways to learn a language|healthy breakfasts|"
    "reasons to drink water|things to do on a rainy day|famous rivers|musical instruments|tools for a garden|"
    "habits of good students|ideas for a birthday gift|ways to stay calm|questions for a new neighbour|"
    "safety rules for a kitchen|uses of a smartphone|animals of the desert|inventions of the last century|"
    "advantages of public transport|steps to plant a tree|skills of a good leader|names for a boat|"
    "winter soups|hobbies for old people|ways to save electricity|things to pack for a hike|jobs in a hospital|"
    "house plants|board games|ways to make new friends|qualities of a good teacher|topics for a school essay|"
    "causes of traffic jams|breakfast drinks|ways to use old newspapers|famous paintings|"
    "rules for a good discussion|stages of a project"
)
_SCENES: Final = (
    "an old clockmaker|two friends on a train|a dragon who cannot fly|a lost key|the last day of summer|a robot that "
    "learns to paint|a storm at sea|a village without clocks|a talking river|the first snow|a baker at night|"
    "a secret garden|a journey to Mars|a shy ghost|a fox and a crow|an empty theatre|a letter that came too late|"
    "a girl and her telescope|the oldest tree in the forest|a postman in the mountains|a city under the sea|a broken "
    "violin|a mouse in a library|a race between a tortoise and a train|two rival cooks|a soldier who comes home|a door "
    "that leads to yesterday|a gardener and the wind|a king who could not sleep|the night of the falling stars|a cat "
    "that keeps shop"
)
_SENTENCES: Final = (
    "The weather is lovely today.|Where can I buy a map of the town?|My brother works in a hospital.|"
    "Could you open the window, please?|The children are playing in the park.|I have lost my umbrella.|"
    "She reads a book every week.|How much does this cost?|The shop opens at nine.|We are learning to cook.|"
    "The dog sleeps under the table.|He will arrive on Monday."
)
_LANGUAGES: Final = "Spanish|French|German|Italian|Portuguese"
_TEXTS: Final = (
    "The library will be closed for two weeks because the roof has to be repaired. Books can be returned at the town "
    "hall, and all dates are moved by a month.|"
    "Whales are mammals. They breathe air, feed their young with milk and live in groups. Some of them swim thousands "
    "of kilometres each year.|"
    "Our team finished the project three days late, because a part came late. The customer was content, and wants to "
    "order again in autumn.|"
    "Coffee came to Europe in the seventeenth century. At first it was sold in pharmacies. Soon there were coffee "
    "houses in all large towns, where people read newspapers and talked about politics.|"
    "Tom wanted to be a pilot when he was a child. He studied engineering, worked for an airline and at last flew his "
    "first plane when he was fifty.|"
    "A good night's sleep helps memory. Those who sleep less than six hours forget more, get ill more often and make "
    "worse decisions.|"
    "The new park has a pond, forty trees and a playground. It was paid for by the town and by gifts of two hundred "
    "people. It opens on the first of June.|"
    "Solar panels turn light into electricity. They work best in full sun, and lose a little of their power each year. "
    "After twenty years most of them still give four fifths of what they gave at first."
)
_WRONG: Final = (
    "i has two cat and they likes fish.|Yesterday we goed too the beech and swimmed.|Their going to they're house "
    "over there.|Him and me was late becuase the bus brok down.|She dont know were the keys is.|The informations is on "
    "there websight.|Me sister have buyed a new bicicle last weak."
)
_SUMS: Final = (
    "A train goes 60 miles in an hour. How far does it go in 3 and a half hours|A box holds 12 eggs. How many boxes "
    "are needed for 90 eggs|Sara has 15 apples and gives a third of them away. How many are left|A shirt costs 40 "
    "dollars and is sold at 25 percent off. What does it cost now|If 5 machines make 5 parts in 5 minutes, how long "
    "do 100 machines need for 100 parts|The sum of two numbers is 20 and their difference is 4. What are they|A pool "
    "fills in 8 hours. How much of it is full after 2 hours|Tim is 4 years older than Ann. In 6 years he will be 20. "
    "How old is Ann"
)
_RECORDS: Final = (
    "Title: The Long Road. Author: Jane Hill. Year: 1999. Pages: 320|City: Oslo. Country: Norway. People: 700000|"
    "Name: Rex. Kind: dog. Age: 4. Colour: brown|Product: lamp. Price: 25. Stock: 14. Colour: white|"
    "Team: Blue. Points: 31. Games: 12|Flight: TK 81. From: Rome. To: Cairo. Hour: 14:20"
)
_PATTERNS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("What is {0}?", (_THINGS,)),
    ("How does {0} work?", (_THINGS,)),
    ("Explain {0} to a child of ten.", (_THINGS,)),
    ("Tell me three interesting facts about {0}.", (_THINGS,)),
    ("Write a short essay on {0}.", (_THINGS,)),
    ("What is {0} used for, and who invented it?", (_THINGS,)),
    ("Why is {0} important to people?", (_THINGS,)),
    ("What are common mistakes that people believe about {0}?", (_THINGS,)),
    ("Describe {0} to somebody who has never seen one.", (_THINGS,)),
    ("Tell me about the history of {0}.", (_PLACES,)),
    ("What should a traveller see in {0}?", (_PLACES,)),
    ("What do people eat in {0}?", (_PLACES,)),
    ("Describe the climate of {0}.", (_PLACES,)),
    ("Plan three days in {0} for a family.", (_PLACES,)),
    ("Write a letter to a friend from {0}.", (_PLACES,)),
    ("Who was {0}?", (_PEOPLE,)),
    ("What is {0} known for? Answer in a few sentences.", (_PEOPLE,)),
    ("Write a Python function that {0}.", (_TASKS,)),
    ("Write a JavaScript function that {0}, with an example.", (_TASKS,)),
    ("Write a program in C that {0}.", (_TASKS,)),
    ("How would you test a function that {0}?", (_TASKS,)),
    ("Explain step by step how a program {0}.", (_TASKS,)),
    ("List six {0}.", (_LISTS,)),
    ("Give me a list of ten {0}.", (_LISTS,)),
    ("Which are the three best {0}, and why?", (_LISTS,)),
    ("Write a story about {0}.", (_SCENES,)),
    ("Write a poem about {0}.", (_SCENES,)),
    ("Write the first paragraph of a novel about {0}.", (_SCENES,)),
    ("Write a dialogue about {0}.", (_SCENES,)),
    ("Write a riddle or a fable about {0}.", (_SCENES,)),
    ("Invent a title and a short summary for a film about {0}.", (_SCENES,)),
    ("Translate into {1}: {0}", (_SENTENCES, _LANGUAGES)),
    ("Translate this sentence to {1} and explain each word: {0}", (_SENTENCES, _LANGUAGES)),
    ("Summarize this text: {0}", (_TEXTS,)),
    ("Write this text again in simpler words: {0}", (_TEXTS,)),
    ("What are the key points of the following? {0}", (_TEXTS,)),
    ("Find a title for this text: {0}", (_TEXTS,)),
    ("Write three questions about this text, with their answers: {0}", (_TEXTS,)),
    ("Correct the mistakes: {0}", (_WRONG,)),
    ("Is this sentence right? If not, write it properly. {0}", (_WRONG,)),
    ("Solve this and show each step: {0}?", (_SUMS,)),
    ("{0}?", (_SUMS,)),
    ("Write this as a JSON object: {0}.", (_RECORDS,)),
    ("Make a Markdown table of this: {0}.", (_RECORDS,)),
    ("Write an email about {0} to a colleague.", (_LISTS,)),
    ("Give advice to a friend who asks about {0}.", (_LISTS,)),
)


def prompts(seed: int = 1) -> list[str]:
    """All prompts, mixed."""
    found = [one for pattern, choices in _PATTERNS for one in _filled(pattern, choices)]
    random.Random(seed).shuffle(found)
    return found


def _filled(pattern: str, choices: Sequence[str]) -> Iterator[str]:
    first, *others = (choice.split("|") for choice in choices)
    for number, thing in enumerate(first):
        yield pattern.format(thing, *(other[number % len(other)] for other in others))
