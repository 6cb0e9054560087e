"""A short plain text to measure any model on. Written for this package."""

TEXT = """\
The ferry left the harbour a little after six, when the light was still grey and the gulls had \
not yet begun to quarrel over the fishing boats. Most of the people on board were asleep. A man in \
a green coat stood at the rail and counted the lamps along the shore until the fog took them, one \
after the other, and only the sound of the engine was left.

Bread is made from flour, water, salt and time. The first three are easy to buy. You mix them in \
a bowl, cover it with a cloth, and leave it in a warm place until the dough has doubled. If you \
hurry, the loaf will be heavy; if you forget it, it will be sour. After an hour in the oven the \
crust should sound hollow when you knock on it with your finger.

In the spring the council decided to plant two hundred trees along the road to the station. The \
children of the school were asked to choose them, and they chose cherries, because of the flowers, \
and walnuts, because of the nuts. Nobody had told them that a walnut needs twenty years before it \
gives anything at all. "Then we will come back," said one of the girls, and wrote the year on a \
piece of paper.

A computer adds two numbers by looking at one digit after another, just as we do on paper. The \
difference is that it has only two digits, so that every sum is either nothing, one, or one to be \
carried over. Many small circuits do this at the same moment, and a clock tells them when to pass \
their answers on. What looks like thinking from the outside is, at this level, a very long row of \
very simple steps.

My grandmother kept her letters in a tin that had once held tea. There were letters from her \
brother, who had gone to sea, and from a friend who wrote about nothing but her garden. On winter \
evenings she would take out one of them and read it aloud, slowly, as if it had come that morning. \
We knew them all by heart, and we never asked for another story.
"""
