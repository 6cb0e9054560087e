"""Whether a chat template can be rendered, and ends what the model says."""

from collections.abc import Iterator

from redraft.data.chat import Chat, Turn, first_special
from redraft.data.tokenizer import Tokenizer
from redraft.errors import BadInput
from redraft.eval.doctor.finding import Finding

ASKED, SAID = "Is the harbour open", "It opens at six"  # words that no template changes


def template(
    source: str, tokenizer: Tokenizer, bos: str, eos: str, where: str
) -> Iterator[Finding]:
    """What is wrong with it."""
    chat = Chat(tokenizer, source, bos, eos)
    try:
        prompt = chat.text([Turn("user", ASKED)], answer=True)
        whole = chat.text([Turn("user", ASKED), Turn("assistant", SAID)])
        last = chat.encode(whole.rpartition(SAID)[2])
    except BadInput as error:
        yield Finding(str(error), where, "mend the template, or delete it to chat with ChatML")
        return
    if ASKED not in prompt or SAID not in whole:
        lost = "what the user asks" if ASKED not in prompt else "the answer"
        yield Finding(
            f"the chat template leaves out {lost}", where, "it must print every message's content"
        )
        return
    yield from ending(first_special(last, tokenizer), tokenizer, eos, where)


def ending(found: list[int], tokenizer: Tokenizer, eos: str, where: str) -> Iterator[Finding]:
    """Whether an answer ends with the token that writing stops at."""
    if not found:
        yield Finding(
            "the chat template ends no answer",
            where,
            f"put {eos or 'eos_token'} behind what the assistant says, or it never stops",
        )
    elif found[0] != tokenizer.eos_id:
        yield Finding(
            f"the chat template ends answers with {tokenizer.inner.id_to_token(found[0])}, "
            f"and eos is {eos or tokenizer.eos_id}",
            where,
            "stop at both, as `redraft chat` does",
            wrong=False,
        )
