"""Prompts: the class prompt, the identity prompt, and captions of what a photo shows besides the person."""

from typing import NamedTuple

CLASS_PROMPT = "a photo of a person"
IDENTITY_TOKEN = "sks"
IDENTITY_PROMPT = f"a photo of {IDENTITY_TOKEN} person"
EXPRESSION_WORDS = {"neutral": "with a neutral face"}


def described(prompt: str, expression: str | None, shirt: str | None, background: str | None) -> str:
    """`prompt`, followed by the given circumstances of a photo."""
    if expression:
        prompt += f", {EXPRESSION_WORDS.get(expression, expression)}"
    if shirt:
        prompt += f", in a {shirt} shirt"
    if background:
        prompt += f", on a {background} background"
    return prompt


def asks_for_more(prompt: str) -> bool:
    """Whether a prompt asks for more than a photo of a person; such prompts need guidance."""
    return prompt.strip() not in (CLASS_PROMPT, IDENTITY_PROMPT, f"{IDENTITY_TOKEN} person")


class Request(NamedTuple):
    """A prompt, and the values of factors of the picture that it requests, such as {"background": "blue"}."""

    values: dict[str, str]
    prompt: str
