"""What the tests of conversations share: a tokenizer of bytes with turns, a model that speaks."""

from tokenizers import AddedToken

from redraft.adapt.shift import NextTokenConfig
from redraft.data.chat import CHATML, Chat
from redraft.data.tokenizer import Bytes, Chars, Tokenizer
from redraft.data.voice import Voice
from redraft.model.llama import LlamaConfig

DEFAULT = (  # like CHATML, with a system message where there is none
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] | trim + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
FORGETS = (  # shows what the assistant said earlier without what it thought
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' and not loop.last %}"
    "{{ message['content'].split('</think>')[-1] }}{% else %}{{ message['content'] }}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA = (  # special tokens of two kinds, and no line end behind a turn
    "{{ bos_token }}{% for message in messages %}{% if message['role'] not in "
    "['system', 'user', 'assistant'] %}{{ raise_exception('no ' + message['role']) }}{% endif %}"
    "<|im_start|>{{ message['role'] }}: {% if message['role'] == 'assistant' %}{% generation %}"
    "{{ message['content'] }}<|im_end|>{% endgeneration %}{% else %}{{ message['content'] }}"
    "<|im_end|>{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant: "
    "{% endif %}"
)
BYTES, LETTERS = Bytes(), "".join(map(chr, range(32, 127))) + "\n"
TEMPLATES = {"chatml": CHATML, "default": DEFAULT, "llama": LLAMA}


def tokenizer(kind: Bytes | Chars = BYTES) -> Tokenizer:
    """Bytes or letters, [MASK], an end, and where turns begin and end."""
    inner = kind.build(iter([LETTERS])).inner
    marks = ("<|im_start|>", "<|im_end|>")
    inner.add_special_tokens([AddedToken(m, normalized=False, special=True) for m in marks])
    return Tokenizer(inner)


def chat(template: str | None = DEFAULT) -> Chat:
    """A template with that tokenizer."""
    return Voice(tokenizer(), template).chat


def speaking(depth: int = 1) -> NextTokenConfig:
    """A tiny network of next tokens for it."""
    words = tokenizer()
    return NextTokenConfig(LlamaConfig(words.vocab_size, 32, depth, 2, 1, 48, 256), words.eos_id)
