"""The forms that a planner's refusal may have; each names what is short."""

import re

TOO_MUCH_LOAD = re.compile(
    r"LLM m\d+: load \S+ calls/s exceeds the \S+ calls/s|LLM m\d+: utilisation \S+ exceeds"
    r"|the LLMs need at least [\d.]+ GPUs at the target rates|none of the \d+ best divisions"
)
DOES_NOT_PACK = re.compile(r"their shares do not pack onto (\d+) GPUs|none of the \d+ best divisions")
TOO_FEW_GPUS = re.compile(
    r"gives every LLM a whole GPU: (?P<need>\d+) LLMs, (?P<have>\d+) GPUs"
    r"|the LLMs need (?P<whole>\d+) whole GPUs by themselves, (?P<there>\d+) there are"
)
